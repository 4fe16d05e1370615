"""A sample in Detectron2's format: what mappers take out of it, and what they put in.

Label files are read and checked before anything is augmented, so that no crop hides a fault.
"""

from typing import Any

import numpy as np
import torch

from ...structures import MaskTarget
from ..errors import InputError
from . import reading
from .augmentation import to_instances

Sample = dict[str, Any]


def take(sample: Sample, key: str) -> Any:
    """The value of a key, which the sample then no longer has; raises as :func:`require` does."""
    require(sample, key)
    return sample.pop(key)


def require(sample: Sample, key: str) -> Any:
    """The value of a key.

    Raises:
        InputError: the sample lacks the key.
    """
    if key not in sample:
        raise InputError(
            f"the sample of image {sample['file_name']} has no {key}, which this mapper needs; add "
            "it where the data set is registered, or choose another INPUT.DATASET_MAPPER_NAME"
        )
    return sample[key]


def refuse_annotations(sample: Sample) -> None:
    """Raises an InputError for a sample with annotations, which would not follow its image."""
    if "annotations" in sample:
        raise InputError(
            f"the sample of image {sample['file_name']} has annotations, which a segmentation "
            "mapper cannot transform; register the data set without them, with label files alone, "
            "or set INPUT.DATASET_MAPPER_NAME to mask_former_instance"
        )


def read_sem_seg(
    sample: Sample, image: np.ndarray, num_classes: int | None, ignore_label: int
) -> np.ndarray:
    """Takes ``sem_seg_file_name`` out of a sample and reads it, as float64.

    Detectron2 resizes bytes by Pillow and all else by PyTorch, whose nearest neighbours differ;
    published models were trained on the latter.

    Returns:
        [H, W], ids 0 to ``num_classes`` - 1 (None: not checked) or ``ignore_label``.

    Raises:
        InputError: there is no file, or it is bad, of another size than the image or has other ids.
    """
    file_name = take(sample, "sem_seg_file_name")
    labels = reading.read_label_map(file_name, num_classes, ignore_label)
    reading.check_same_size(file_name, labels, sample["file_name"], image)
    return labels.astype(np.float64)


def read_panoptic(sample: Sample, image: np.ndarray, num_classes: int | None) -> np.ndarray:
    """Takes ``pan_seg_file_name`` out of a sample and reads it, as colours.

    Colours are bytes, so that Pillow resizes them: as published, one sample's two label maps may
    differ by a pixel.

    Returns:
        [H, W, 3], uint8; each pixel has a colour of ``segments_info`` or of void.

    Raises:
        InputError: there is no file or no ``segments_info``, or one is bad or does not match.
    """
    file_name = take(sample, "pan_seg_file_name")
    segments = require(sample, "segments_info")
    colors = reading.read_panoptic_map(file_name, segments, num_classes)
    reading.check_same_size(file_name, colors, sample["file_name"], image)
    return colors


def complete(
    sample: Sample, image: torch.Tensor, size: tuple[int, ...], target: MaskTarget
) -> Sample:
    """The sample with its image [3, H, W] and target; ``size`` is the image's before padding."""
    sample["image"] = image
    # Padding cuts what is larger.
    sample["image_size"] = tuple(map(min, size, image.shape[-2:]))
    sample["instances"] = to_instances(target)
    sample["valid"] = target.valid
    return sample
