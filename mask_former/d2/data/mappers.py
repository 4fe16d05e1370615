"""Dataset mappers: a sample of file names in, tensors for the model out.

All walk the same steps: read and check, augment, pad, turn labels into segments. They differ in the
labels that they read. Files are checked before anything is augmented, so that no crop hides a
fault.
"""

import copy
import logging
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances

from ...functional.targets import instance_target, panoptic_target, semantic_target
from ...structures import MaskTarget
from ..errors import InputError
from . import annotations, input_section
from .augmentation import Augmentations, Picture, augment, needs_sem_seg, pad_to
from .reading import as_displayed, check_same_size, read_image, read_label_map

Sample = dict[str, Any]

_logger = logging.getLogger(__name__)


class TrainingMapper(ABC):
    """The steps that all mappers of training samples share.

    Args:
        is_train: must be True; evaluation has a mapper of its own.
        augmentations: applied in order, to image and labels.
        image_format: the channels of the image that the model sees, ``"RGB"`` or ``"BGR"``.
        size_divisibility: the side to which samples are padded, whatever the name of the key says;
            larger ones are cut to it. Not positive: samples keep their size.
        num_classes: K, to check labels against. None checks no ids.
        valid_mask: whether samples tell which pixels are valid.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Augmentations,
        image_format: str,
        size_divisibility: int = 0,
        num_classes: int | None = None,
        valid_mask: bool = False,
    ) -> None:
        self.is_train = is_train
        self.tfm_gens = list(augmentations)
        self.img_format = image_format
        self.size_divisibility = size_divisibility
        self.num_classes = num_classes
        self.valid_mask = valid_mask
        _logger.info("[%s] Augmentations: %s", type(self).__name__, self.tfm_gens)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments, from INPUT, the classes and ``VALID_MASK``."""
        return input_section.training_arguments(cfg, is_train)

    def __call__(self, dataset_dict: Sample) -> Sample:
        """Maps one sample in Detectron2's format.

        Returns:
            The sample without the label files' names, and with

            * ``image`` [3, H, W], uint8, and, of a label map, ``sem_seg`` [H, W], int64.
            * ``instances``: ``gt_classes`` [N], int64, and ``gt_masks`` [N, H, W], a bare tensor:
              bool, or float32 if N = 0.
            * with ``valid_mask``, ``image_size``: height and width without the padding, right and
              bottom; and ``valid`` [H, W], bool: the pixels that have a segment; in instance data,
              where not every pixel has one, all but padding and what only a crowd covers.

        Raises:
            InputError: if a file or an annotation is bad.
        """
        assert self.is_train, f"{type(self).__name__} serves training only"
        sample = copy.deepcopy(dataset_dict)
        image = read_image(sample, self.img_format)
        picture = augment(self._read(sample, image), self._draw_augmentations())
        height, width = picture.image.shape[-2:]
        if (side := self.size_divisibility) > 0:
            picture = self._pad(picture)
            height, width = min(height, side), min(width, side)
        sample["image"] = torch.from_numpy(np.ascontiguousarray(picture.image))
        if picture.sem_seg is not None:
            sample["sem_seg"] = torch.from_numpy(picture.sem_seg.astype(np.int64))
        target = self._target(sample, picture)
        sample["instances"] = instances = Instances(tuple(target.masks.shape[-2:]))
        instances.gt_classes = target.labels
        instances.gt_masks = target.masks if len(target.labels) else target.masks.float()
        if self.valid_mask:
            sample.update(image_size=(height, width), valid=self._valid(target, picture))
        return sample

    def _draw_augmentations(self) -> Augmentations:
        return self.tfm_gens

    def _pad(self, picture: Picture) -> Picture:
        return pad_to(picture, self.size_divisibility)

    @abstractmethod
    def _read(self, sample: Sample, image: np.ndarray) -> Picture:
        """The image [H, W, 3] with its labels, whose names are taken out of the sample."""

    @abstractmethod
    def _target(self, sample: Sample, picture: Picture) -> MaskTarget:
        """The segments of the augmented labels."""

    def _valid(self, target: MaskTarget, picture: Picture) -> torch.Tensor:
        return target.masks.any(0)


class MaskFormerSemanticDatasetMapper(TrainingMapper):
    """Semantic training samples: an image, its label map, and one segment for each class.

    Args:
        is_train: must be True.
        ignore_label: the label of pixels without a class, also of padding.
        shared: ``augmentations``, ``image_format``, ``size_divisibility`` and the options of
            :class:`TrainingMapper`.
    """

    @configurable
    def __init__(self, is_train: bool = True, *, ignore_label: int, **shared: Any) -> None:
        super().__init__(is_train, **shared)
        self.ignore_label = ignore_label

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments, also from the first training set's metadata."""
        return {
            **super().from_config(cfg, is_train),
            "ignore_label": input_section.ignore_label(cfg),
        }

    def _read(self, sample: Sample, image: np.ndarray) -> Picture:
        if "annotations" in sample:
            raise InputError(
                f"the sample of image {sample['file_name']} has annotations, which a segmentation "
                "mapper cannot transform; register the data set without them, with label files "
                "alone, or set INPUT.DATASET_MAPPER_NAME to mask_former_instance"
            )
        file_name = _take(sample, "sem_seg_file_name")
        values = sample.pop("label_values", None)
        labels = read_label_map(file_name, self.num_classes, self.ignore_label, values)
        return Picture(image, as_displayed(file_name, labels, sample["file_name"], image))

    def _pad(self, picture: Picture) -> Picture:
        return pad_to(picture, self.size_divisibility, self.ignore_label)

    def _target(self, sample: Sample, picture: Picture) -> MaskTarget:
        return semantic_target(torch.from_numpy(picture.sem_seg), self.ignore_label)


class MaskFormerPanopticDatasetMapper(MaskFormerSemanticDatasetMapper):
    """Panoptic training samples: one segment for each thing and each stuff class.

    A semantic label map is mapped alike if the sample has one.
    """

    def _read(self, sample: Sample, image: np.ndarray) -> Picture:
        picture = Picture(image)
        if "sem_seg_file_name" in sample or needs_sem_seg(self.tfm_gens):
            picture = super()._read(sample, image)
        return picture._replace(segments=_read_segments(sample, image, self.num_classes))

    def _target(self, sample: Sample, picture: Picture) -> MaskTarget:
        return _segments_target(sample, picture)


class DETRPanopticDatasetMapper(TrainingMapper):
    """Panoptic samples with the augmentation of DETR (Carion et al. 2020): no jitter, no padding.

    Args:
        is_train: whether to add ``instances``.
        crop_gen: put before the last of ``tfm_gens`` for about half of the samples; or None.
        tfm_gens: applied in order.
        shared: ``image_format`` and the options of :class:`TrainingMapper`.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        crop_gen: Augmentations | None,
        tfm_gens: Augmentations,
        **shared: Any,
    ) -> None:
        super().__init__(is_train, augmentations=tfm_gens, **shared)
        self.crop_gen = None if crop_gen is None else list(crop_gen)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments, from INPUT and the classes."""
        return input_section.detr_arguments(cfg, is_train)

    def __call__(self, dataset_dict: Sample) -> Sample:
        """Maps one sample; without a panoptic map, and at inference, to its ``image`` alone."""
        if self.is_train and "pan_seg_file_name" in dataset_dict:
            return super().__call__(dataset_dict)
        sample = _image_alone(dataset_dict, self.img_format, self._draw_augmentations())
        if not self.is_train:
            sample.pop("annotations", None)
        return sample

    def _draw_augmentations(self) -> Augmentations:
        if self.crop_gen is None or np.random.rand() > 0.5:
            return self.tfm_gens
        return self.tfm_gens[:-1] + self.crop_gen + self.tfm_gens[-1:]

    def _read(self, sample: Sample, image: np.ndarray) -> Picture:
        return Picture(image, segments=_read_segments(sample, image, self.num_classes))

    def _target(self, sample: Sample, picture: Picture) -> MaskTarget:
        return _segments_target(sample, picture)


class MaskFormerInstanceDatasetMapper(TrainingMapper):
    """Instance training samples: one segment for each annotation that is no crowd.

    Annotations are Detectron2's, as its loader of COCO's JSON gives them: polygons or run lengths.
    They are painted at the size of the image and augmented as masks, and so are crowds, whose
    pixels are not valid where they are nothing else.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments; refuses a crop that looks at label maps."""
        arguments = super().from_config(cfg, is_train)
        if needs_sem_seg(arguments["augmentations"]):
            raise InputError(
                "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA below 1 looks at label maps, which instance "
                "data lack; set it to 1.0"
            )
        return arguments

    def _read(self, sample: Sample, image: np.ndarray) -> Picture:
        found = _take(sample, "annotations")
        height, width = image.shape[:2]
        kept = annotations.paint(found, sample["file_name"], (height, width), self.num_classes)
        sample["annotations"] = kept.annotations
        return Picture(image, masks=kept.masks, ignored=kept.ignored)

    def _target(self, sample: Sample, picture: Picture) -> MaskTarget:
        labels = [annotation["category_id"] for annotation in sample.pop("annotations")]
        masks = torch.from_numpy(picture.masks).bool()
        return instance_target(masks, torch.tensor(labels, dtype=torch.int64))

    def _valid(self, target: MaskTarget, picture: Picture) -> torch.Tensor:
        return torch.from_numpy(picture.ignored) == 0


class EvaluationMapper:
    """Detectron2's mapper for evaluation, but for the labels, which evaluators read themselves.

    Args:
        augmentations: applied in order.
        image_format: the channels of the image that the model sees, ``"RGB"`` or ``"BGR"``.
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
        sample = _image_alone(dataset_dict, self.image_format, self.augmentations)
        sample.pop("annotations", None)
        sample.pop("sem_seg_file_name", None)
        sample.pop("label_values", None)
        return sample


def _image_alone(dataset_dict: Sample, image_format: str, augmentations: Augmentations) -> Sample:
    """The sample with its augmented image [3, h, w], whatever its labels."""
    sample = copy.deepcopy(dataset_dict)
    picture = augment(Picture(read_image(sample, image_format)), augmentations)
    sample["image"] = torch.from_numpy(np.ascontiguousarray(picture.image))
    return sample


def _read_segments(sample: Sample, image: np.ndarray, num_classes: int | None) -> np.ndarray:
    """The numbers of segments [H, W], from the panoptic map, whose name is taken out."""
    file_name = _take(sample, "pan_seg_file_name")
    sample["segments_info"] = segments = _take(sample, "segments_info")
    numbers = annotations.read_panoptic_map(file_name, segments, num_classes).numbers
    check_same_size(file_name, numbers, sample["file_name"], image)
    return numbers


def _segments_target(sample: Sample, picture: Picture) -> MaskTarget:
    """All segments but crowds."""
    learnt = annotations.without_crowds(sample["segments_info"])
    labels = torch.tensor([segment["category_id"] for segment in learnt], dtype=torch.int64)
    return panoptic_target(torch.from_numpy(picture.segments), labels)


def _take(sample: Sample, key: str) -> Any:
    """The value of a key, which the sample then no longer has."""
    if key not in sample:
        raise InputError(
            f"the sample of image {sample['file_name']} has no {key}, which this mapper needs; add "
            "it where the data set is registered, or choose another INPUT.DATASET_MAPPER_NAME"
        )
    return sample.pop(key)
