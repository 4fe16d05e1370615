"""Dataset mappers: a sample of file names in, tensors for the model out.

All walk the same steps: read and check, augment, pad, turn labels into segments; they differ in the
labels that they read: label files here, annotations in ``instance_mapper``.
"""

import copy
import logging
from typing import Any

from detectron2.config import CfgNode, configurable

from ...functional.targets import semantic_target
from ...structures import MaskTarget
from . import input_section, reading, samples
from .augmentation import (
    Arrays,
    Augmentations,
    Tensors,
    augment,
    pad_to,
    segments_target,
)
from .samples import Sample

_logger = logging.getLogger(__name__)


class MaskFormerSemanticDatasetMapper:
    """Semantic training samples: an image, its label map, and one segment for each class.

    Args:
        is_train: must be True; evaluation has a mapper of its own.
        augmentations: applied in order, to image and labels.
        image_format: of the image that the model sees, ``"RGB"`` or ``"BGR"``.
        ignore_label: the label of pixels without a class, also of padding; None: of mappers that
            read no label map.
        size_divisibility: the side to which samples are padded, whatever the name of the key says;
            larger ones are cut to it. Not positive: samples keep their size.
        num_classes: K, to check label files against. None checks no ids.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Augmentations,
        image_format: str,
        ignore_label: int | None,
        size_divisibility: int,
        num_classes: int | None = None,
    ) -> None:
        self.is_train = is_train
        self.tfm_gens = list(augmentations)
        self.img_format = image_format
        self.ignore_label = ignore_label
        self.size_divisibility = size_divisibility
        self.num_classes = num_classes
        _logger.info("[%s] Augmentations: %s", type(self).__name__, self.tfm_gens)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments, from INPUT, the classes and the first training set."""
        arguments = input_section.training_arguments(cfg, is_train)
        return {**arguments, "ignore_label": input_section.ignore_label(cfg)}

    def __call__(self, dataset_dict: Sample) -> Sample:
        """Maps one sample in Detectron2's format.

        Returns:
            The sample without the label files' names, and with

            * ``image`` [3, H, W], uint8, and ``sem_seg`` [H, W], int64.
            * ``instances``: see :func:`~mask_former.d2.data.augmentation.to_instances`.
            * ``image_size``: height and width without the padding, right and bottom.
            * ``valid`` [H, W], bool: the pixels that have a segment; in instance data, where not
              every pixel has one, all but padding and what only a crowd covers.

        Raises:
            InputError: if a file or an annotation is bad.
        """
        assert self.is_train, f"{type(self).__name__} serves training only"
        sample = copy.deepcopy(dataset_dict)
        tensors = augment(self._read(sample), self.tfm_gens)
        size = tensors.image.shape[-2:]
        if self.size_divisibility > 0:
            tensors = pad_to(tensors, self.size_divisibility, self.ignore_label)
        if tensors.sem_seg is not None:
            sample["sem_seg"] = tensors.sem_seg
        return samples.complete(sample, tensors.image, size, self._target(tensors, sample))

    def _read(self, sample: Sample) -> Arrays:
        samples.refuse_annotations(sample)
        image = reading.read_image(sample, self.img_format)
        return Arrays(
            image, samples.read_sem_seg(sample, image, self.num_classes, self.ignore_label)
        )

    def _target(self, tensors: Tensors, sample: Sample) -> MaskTarget:
        target = semantic_target(tensors.sem_seg, self.ignore_label)
        return target._replace(valid=tensors.sem_seg != self.ignore_label)


class MaskFormerPanopticDatasetMapper(MaskFormerSemanticDatasetMapper):
    """Panoptic training samples: one segment for each thing and each stuff class.

    A semantic label map is mapped alike if the sample has one.
    """

    def _read(self, sample: Sample) -> Arrays:
        samples.refuse_annotations(sample)
        image = reading.read_image(sample, self.img_format)
        sem_seg = None
        if "sem_seg_file_name" in sample or input_section.needs_sem_seg(self.tfm_gens):
            sem_seg = samples.read_sem_seg(sample, image, self.num_classes, self.ignore_label)
        return Arrays(image, sem_seg, samples.read_panoptic(sample, image, self.num_classes))

    def _target(self, tensors: Tensors, sample: Sample) -> MaskTarget:
        return segments_target(tensors.panoptic, sample["segments_info"])
