"""The INPUT section of a configuration as arguments of the mappers, augmentations above all."""

import math
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T

from ..configuring.checks import check_config
from ..errors import InputError
from .augmentation import Augmentations, ColorJitter, ResizeScale, ResizeShortestEdge
from .checks import check_name
from .datasets import register_descriptions

_DETR_CROP_SIZES = [400, 500, 600]


def training_arguments(cfg: CfgNode, is_train: bool) -> dict[str, Any]:
    """What MaskFormer's own mappers take from a configuration."""
    return {
        **_shared_arguments(cfg, is_train),
        "augmentations": _training_augmentations(cfg),
        "size_divisibility": cfg.INPUT.SIZE_DIVISIBILITY,
    }


def detr_arguments(cfg: CfgNode, is_train: bool) -> dict[str, Any]:
    """What the mapper with the augmentation of DETR takes from a configuration."""
    if cfg.INPUT.SCALE_JITTER:
        raise InputError(
            "INPUT.SCALE_JITTER is set, which INPUT.DATASET_MAPPER_NAME detr_panoptic does not "
            "know; take mask_former_panoptic, or set it to []"
        )
    arguments, crop = _shared_arguments(cfg, is_train), None
    if cfg.INPUT.CROP.ENABLED and is_train:
        resize = ResizeShortestEdge(_DETR_CROP_SIZES, sample_style="choice")
        crop = [resize, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)]
    return {
        **arguments,
        "crop_gen": crop,
        "tfm_gens": [*(_flips(cfg) if is_train else []), _resize(cfg, is_train)],
    }


def _shared_arguments(cfg: CfgNode, is_train: bool) -> dict[str, Any]:
    check_config(cfg)
    register_descriptions(cfg)
    return {
        "is_train": is_train,
        "image_format": cfg.INPUT.FORMAT,
        "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        "valid_mask": cfg.MODEL.MASK_FORMER.VALID_MASK,
    }


def evaluation_arguments(cfg: CfgNode) -> dict[str, Any]:
    """What the mapper for evaluation takes from a configuration: Detectron2's test sizes."""
    register_descriptions(cfg)
    return {
        "augmentations": [_resize(cfg, is_train=False)],
        "image_format": cfg.INPUT.FORMAT,
    }


def ignore_label(cfg: CfgNode) -> int:
    """The label of pixels without a class, from the metadata of the first training set.

    Raises:
        InputError: no training set is named or registered, or its metadata lack the label, or it
            is not that of ``MODEL.SEM_SEG_HEAD.IGNORE_VALUE``.
    """
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty; name the data set to train on")
    name = cfg.DATASETS.TRAIN[0]
    label = MetadataCatalog.get(name).get("ignore_label")
    if label is None:
        check_name(name)
        raise InputError(
            f"the metadata of data set {name}, the first of DATASETS.TRAIN, have no ignore_label; "
            "set it where the data set is registered, for example to 255"
        )
    if label != (other := cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE):
        raise InputError(
            f"data set {name} has the ignore_label {label}, but MODEL.SEM_SEG_HEAD.IGNORE_VALUE is "
            f"{other}; set it to {label}"
        )
    return label


def _training_augmentations(cfg: CfgNode) -> Augmentations:
    augmentations: list[T.Augmentation | T.Transform] = [_resize(cfg, is_train=True)]
    if cfg.INPUT.SCALE_JITTER:
        augmentations = _scale_jitter(cfg)
    elif cfg.INPUT.CROP.ENABLED:
        crop = T.RandomCrop_CategoryAreaConstraint(
            cfg.INPUT.CROP.TYPE,
            cfg.INPUT.CROP.SIZE,
            cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
            cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )
        augmentations.append(crop)
    if cfg.INPUT.COLOR_AUG_SSD:
        augmentations.append(ColorJitter(img_format=cfg.INPUT.FORMAT))
    return [*augmentations, *_flips(cfg)]


def _scale_jitter(cfg: CfgNode) -> list[T.Augmentation | T.Transform]:
    """Large-scale jitter (Ghiasi et al. 2021): a size of the crop's, times a factor, then a crop.

    Smaller pictures are padded by the mapper or with their batch, which know the ignored label.
    """
    jitter, size = tuple(cfg.INPUT.SCALE_JITTER), tuple(cfg.INPUT.CROP.SIZE)
    if len(jitter) != 2 or not 0 < jitter[0] <= jitter[1] < math.inf:
        raise InputError(
            f"INPUT.SCALE_JITTER is {list(jitter)}; give the least and the greatest factor of "
            "INPUT.CROP.SIZE, for example [0.1, 2.0], or [] for none"
        )
    if cfg.INPUT.CROP.TYPE != "absolute" or len(size) != 2 or min(size) < 1:
        raise InputError(
            f"INPUT.SCALE_JITTER needs INPUT.CROP.TYPE absolute and a SIZE in pixels, but they are "
            f"{cfg.INPUT.CROP.TYPE} and {list(size)}"
        )
    return [ResizeScale(*jitter, *size), T.FixedSizeCrop(size, pad=False)]


def _flips(cfg: CfgNode) -> Augmentations:
    axis = cfg.INPUT.RANDOM_FLIP
    chosen = {each: each == axis for each in ("horizontal", "vertical")}
    return [T.RandomFlip(**chosen)] if axis != "none" else []


def _resize(cfg: CfgNode, is_train: bool) -> T.Augmentation:
    if not is_train:
        return ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    return ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sampling)
