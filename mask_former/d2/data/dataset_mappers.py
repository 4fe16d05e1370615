"""Dataset mappers: a sample of file names in, tensors for the model out.

All walk the same steps: read and check, augment, pad, turn labels into segments; they differ in the
labels that they read. The INPUT section of a configuration is read here and nowhere else.
"""

import copy
import logging
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog, detection_utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform

from mask_former.d2.data import annotations, reading
from mask_former.d2.data.arrays import (
    Arrays,
    Augmentations,
    Tensors,
    augment,
    pad_to,
    segments_target,
    to_instances,
)
from mask_former.d2.errors import InputError
from mask_former.functional.targets import instance_target, semantic_target
from mask_former.structures import MaskTarget

Sample = dict[str, Any]

_DETR_CROP_SIZES = [400, 500, 600]


class MaskFormerSemanticDatasetMapper:
    """Semantic training samples: an image, its label map, and one segment for each class.

    Args:
        is_train: must be True; evaluation has :class:`EvaluationMapper`.
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
        _log_augmentations(self, self.tfm_gens)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments, from INPUT, the classes and the first training set."""
        return {**_training_arguments(cfg, is_train), "ignore_label": _ignore_label(cfg)}

    def __call__(self, dataset_dict: Sample) -> Sample:
        """Maps one sample in Detectron2's format.

        Returns:
            The sample without the label files' names, and with

            * ``image`` [3, H, W], uint8, and ``sem_seg`` [H, W], int64.
            * ``instances``: see :func:`to_instances`.
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
        return _complete(sample, tensors.image, size, self._target(tensors, sample))

    def _read(self, sample: Sample) -> Arrays:
        _refuse_annotations(sample)
        image = reading.read_image(sample, self.img_format)
        return Arrays(image, _read_sem_seg(sample, image, self.num_classes, self.ignore_label))

    def _target(self, tensors: Tensors, sample: Sample) -> MaskTarget:
        target = semantic_target(tensors.sem_seg, self.ignore_label)
        return target._replace(valid=tensors.sem_seg != self.ignore_label)


class MaskFormerPanopticDatasetMapper(MaskFormerSemanticDatasetMapper):
    """Panoptic training samples: one segment for each thing and each stuff class.

    A semantic label map is mapped alike if the sample has one.
    """

    def _read(self, sample: Sample) -> Arrays:
        _refuse_annotations(sample)
        image = reading.read_image(sample, self.img_format)
        sem_seg = None
        if "sem_seg_file_name" in sample or _needs_sem_seg(self.tfm_gens):
            sem_seg = _read_sem_seg(sample, image, self.num_classes, self.ignore_label)
        return Arrays(image, sem_seg, _read_panoptic(sample, image, self.num_classes))

    def _target(self, tensors: Tensors, sample: Sample) -> MaskTarget:
        return segments_target(tensors.panoptic, sample["segments_info"])


class MaskFormerInstanceDatasetMapper(MaskFormerSemanticDatasetMapper):
    """Instance training samples: one segment for each annotation that is no crowd.

    Annotations are Detectron2's, as its loader of COCO's JSON gives them: polygons or run lengths.
    They are painted at the size of the image and augmented as masks, and so are crowds, whose
    pixels are not valid where they are nothing else.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Augmentations,
        image_format: str,
        size_divisibility: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(
            is_train,
            augmentations=augmentations,
            image_format=image_format,
            ignore_label=None,
            size_divisibility=size_divisibility,
            num_classes=num_classes,
        )
        if _needs_sem_seg(self.tfm_gens):
            raise InputError(
                "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA below 1 looks at label maps, which instance "
                "data lack; set it to 1.0"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments, from INPUT and the classes."""
        return _training_arguments(cfg, is_train)

    def _read(self, sample: Sample) -> Arrays:
        image = reading.read_image(sample, self.img_format)
        found = _take(sample, "annotations")
        kept = annotations.paint(found, sample["file_name"], image.shape[:2], self.num_classes)
        sample["annotations"] = kept.annotations
        return Arrays(image, masks=kept.masks, ignored=kept.ignored)

    def _target(self, tensors: Tensors, sample: Sample) -> MaskTarget:
        labels = [annotation["category_id"] for annotation in sample.pop("annotations")]
        target = instance_target(tensors.masks, torch.tensor(labels, dtype=torch.int64))
        return target._replace(valid=~tensors.ignored)


class DETRPanopticDatasetMapper:
    """Panoptic samples with the augmentation of DETR: no colour jitter and no padding.

    Args:
        is_train: whether to add ``instances``.
        crop_gen: put before the last of ``tfm_gens`` for about half of the samples; or None.
        tfm_gens: applied in order.
        image_format: of the image that the model sees.
        num_classes: K, to check categories against. None checks none.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        crop_gen: Augmentations | None,
        tfm_gens: Augmentations,
        image_format: str,
        num_classes: int | None = None,
    ) -> None:
        self.is_train = is_train
        self.crop_gen = None if crop_gen is None else list(crop_gen)
        self.tfm_gens = list(tfm_gens)
        self.img_format = image_format
        self.num_classes = num_classes
        _log_augmentations(self, [*self.tfm_gens, *(self.crop_gen or [])])

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments, from INPUT and the classes."""
        flip = [T.RandomFlip()] if is_train else []
        return {
            "is_train": is_train,
            "crop_gen": _detr_crop(cfg) if cfg.INPUT.CROP.ENABLED and is_train else None,
            "tfm_gens": [*flip, _resize(cfg, is_train)],
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def __call__(self, dataset_dict: Sample) -> Sample:
        """Maps one sample in Detectron2's format.

        Returns:
            The sample with ``image`` [3, H, W] and, in training and if it has a panoptic map,
            ``instances``, ``image_size`` and ``valid``, as from
            :class:`MaskFormerPanopticDatasetMapper`.

        Raises:
            InputError: if a file or an annotation is bad.
        """
        sample = copy.deepcopy(dataset_dict)
        image = reading.read_image(sample, self.img_format)
        has_target = self.is_train and "pan_seg_file_name" in sample
        panoptic = _read_panoptic(sample, image, self.num_classes) if has_target else None
        tensors = augment(Arrays(image, panoptic=panoptic), self._draw_augmentations())
        sample["image"] = tensors.image
        if not self.is_train:
            sample.pop("annotations", None)
        if tensors.panoptic is None:
            return sample
        target = segments_target(tensors.panoptic, sample["segments_info"])
        return _complete(sample, tensors.image, tensors.image.shape[-2:], target)

    def _draw_augmentations(self) -> Augmentations:
        if self.crop_gen is None or np.random.rand() > 0.5:
            return self.tfm_gens
        return self.tfm_gens[:-1] + self.crop_gen + self.tfm_gens[-1:]


class EvaluationMapper:
    """Detectron2's mapper for evaluation, but for the labels, which evaluators read themselves.

    Args:
        cfg: the whole configuration; the test sizes and the format of INPUT are read.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.augmentations = detection_utils.build_augmentation(cfg, is_train=False)
        self.image_format = cfg.INPUT.FORMAT

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


def _complete(
    sample: Sample, image: torch.Tensor, size: tuple[int, ...], target: MaskTarget
) -> Sample:
    """The sample with its image [3, H, W] and target; ``size`` is the image's before padding."""
    sample["image"] = image
    # Padding cuts what is larger.
    sample["image_size"] = tuple(map(min, size, image.shape[-2:]))
    sample["instances"] = to_instances(target)
    sample["valid"] = target.valid
    return sample


def _read_sem_seg(
    sample: Sample, image: np.ndarray, num_classes: int | None, ignore_label: int
) -> np.ndarray:
    """Takes ``sem_seg_file_name`` out of a sample and reads it, as float64.

    Detectron2 resizes bytes by Pillow and all else by PyTorch, whose nearest neighbours differ;
    published models were trained on the latter.
    """
    file_name = _take(sample, "sem_seg_file_name")
    labels = reading.read_label_map(file_name, num_classes, ignore_label)
    reading.check_same_size(file_name, labels, sample["file_name"], image)
    return labels.astype(np.float64)


def _read_panoptic(sample: Sample, image: np.ndarray, num_classes: int | None) -> np.ndarray:
    """Takes ``pan_seg_file_name`` out of a sample and reads it, as colours.

    Colours are bytes, so that Pillow resizes them: as published, one sample's two label maps may
    differ by a pixel.
    """
    file_name = _take(sample, "pan_seg_file_name")
    segments = _require(sample, "segments_info")
    colors = reading.read_panoptic_map(file_name, segments, num_classes)
    reading.check_same_size(file_name, colors, sample["file_name"], image)
    return colors


def _require(sample: Sample, key: str) -> Any:
    if key not in sample:
        raise InputError(
            f"the sample of image {sample['file_name']} has no {key}, which this mapper needs; add "
            "it where the data set is registered, or choose another INPUT.DATASET_MAPPER_NAME"
        )
    return sample[key]


def _take(sample: Sample, key: str) -> Any:
    _require(sample, key)
    return sample.pop(key)


def _training_arguments(cfg: CfgNode, is_train: bool) -> dict[str, Any]:
    """What MaskFormer's own mappers take from a configuration."""
    return {
        "is_train": is_train,
        "augmentations": _training_augmentations(cfg),
        "image_format": cfg.INPUT.FORMAT,
        "size_divisibility": cfg.INPUT.SIZE_DIVISIBILITY,
        "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    }


def _training_augmentations(cfg: CfgNode) -> Augmentations:
    augmentations: list[T.Augmentation | T.Transform] = [_resize(cfg, is_train=True)]
    if cfg.INPUT.CROP.ENABLED:
        crop = T.RandomCrop_CategoryAreaConstraint(
            cfg.INPUT.CROP.TYPE,
            cfg.INPUT.CROP.SIZE,
            cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
            cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )
        augmentations.append(crop)
    if cfg.INPUT.COLOR_AUG_SSD:
        augmentations.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    # INPUT.RANDOM_FLIP is not read: the published models were trained with this flip.
    return [*augmentations, T.RandomFlip()]


def _resize(cfg: CfgNode, is_train: bool) -> T.Augmentation:
    if not is_train:
        return T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    return T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sampling)


def _detr_crop(cfg: CfgNode) -> Augmentations:
    resize = T.ResizeShortestEdge(_DETR_CROP_SIZES, sample_style="choice")
    return [resize, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)]


def _ignore_label(cfg: CfgNode) -> int:
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty; name the data set to train on")
    name = cfg.DATASETS.TRAIN[0]
    ignore_label = MetadataCatalog.get(name).get("ignore_label")
    if ignore_label is None:
        raise InputError(
            f"the metadata of data set {name}, the first of DATASETS.TRAIN, have no ignore_label; "
            "set it where the data set is registered, for example to 255"
        )
    return ignore_label


def _needs_sem_seg(augmentations: Augmentations) -> bool:
    """Whether a crop looks at the label map: below an area of 1 it limits the largest class."""
    crops = [a for a in augmentations if isinstance(a, T.RandomCrop_CategoryAreaConstraint)]
    return any(crop.single_category_max_area < 1.0 for crop in crops)


def _refuse_annotations(sample: Sample) -> None:
    if "annotations" in sample:
        raise InputError(
            f"the sample of image {sample['file_name']} has annotations, which a segmentation "
            "mapper cannot transform; register the data set without them, with label files alone, "
            "or set INPUT.DATASET_MAPPER_NAME to mask_former_instance"
        )


def _log_augmentations(mapper: object, augmentations: Augmentations) -> None:
    name = type(mapper).__name__
    logging.getLogger(__name__).info(f"[{name}] Augmentations: {augmentations}")
