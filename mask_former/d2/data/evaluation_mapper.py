"""The dataset mapper of evaluation: images at test size, without labels."""

import copy
from typing import Any

from detectron2.config import CfgNode, configurable

from . import input_section, reading
from .augmentation import Arrays, Augmentations, augment
from .samples import Sample


class EvaluationMapper:
    """Detectron2's mapper for evaluation, but for the labels, which evaluators read themselves.

    Args:
        augmentations: applied in order.
        image_format: of the image that the model sees, ``"RGB"`` or ``"BGR"``.
    """

    @configurable
    def __init__(self, *, augmentations: Augmentations, image_format: str) -> None:
        self.augmentations = augmentations
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments, from INPUT."""
        return input_section.evaluation_arguments(cfg)

    def __call__(self, dataset_dict: Sample) -> Sample:
        """The sample with ``image`` [3, h, w] and the original's ``height`` and ``width``.

        Raises:
            InputError: if the image is bad.
        """
        sample = copy.deepcopy(dataset_dict)
        image = reading.read_image(sample, self.image_format)
        sample["image"] = augment(Arrays(image), self.augmentations).image
        sample.pop("annotations", None)
        sample.pop("sem_seg_file_name", None)
        return sample
