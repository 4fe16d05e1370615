"""Builds whole models from ``cfg.MODEL``; heads and backbones have builders in their own files."""

from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    SemanticSegmentor,
)
from torch import nn

from ..errors import InputError
from .head import check_at_least
from ..gradient_checkpointing import recompute_blocks
from .registry import (
    CRITERION_REGISTRY,
    MATCHER_REGISTRY,
    get,
    register,
)
from ...functional.matching import bipartite_matching, fixed_matching
from ...functional.points import PointOptions
from ...modeling.criterion import Matcher, SetCriterion
from ...modeling.head import MaskFormerHead, takes_padding
from ...modeling.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead
from ...modeling.swin import SwinTransformer
from ...structures import InferenceOptions, LossWeights


def build_model(cfg: CfgNode) -> nn.Module:
    """The whole model on its device, without weights; our components before others' of the name."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name == "SemanticSegmentor":
        model = SemanticSegmentor(**_semantic_segmentor_arguments(cfg))
    else:
        model = get(META_ARCH_REGISTRY, name, "MODEL.META_ARCHITECTURE")(cfg)
    model = model.to(cfg.MODEL.DEVICE)
    if cfg.MODEL.CHANNELS_LAST:
        # Convolutions give the format of their weights, so images need not come in it.
        model = model.to(memory_format=torch.channels_last)
    if cfg.MODEL.COMPILE:
        _compile(model)
    return model


def _compile(model: nn.Module) -> None:
    """Backbone and head, in place, which keeps the keys of the state dict.

    Another size of images compiles a second time, then for sizes at large; but Swin, for which that
    takes many minutes, for each of the first eight sizes, before it stays as it is.
    """
    dynamic = False if isinstance(model.backbone, SwinTransformer) else None
    model.backbone.compile(dynamic=dynamic)
    # Without, attention behind convolutions breaks torch 2.14 on a CPU, in training at any size.
    on_cpu = next(model.parameters()).device.type == "cpu"
    options: dict[str, Any] = {"layout_optimization": not on_cpu}
    model.sem_seg_head.compile(options=options)


def _semantic_segmentor_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of Detectron2's meta-architecture, which serves the baselines."""
    backbone = _backbone(cfg)
    head = _head(cfg, backbone)
    if isinstance(head, MaskFormerHead):
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.NAME {cfg.MODEL.SEM_SEG_HEAD.NAME!r} gives masks and classes, "
            'which MODEL.META_ARCHITECTURE "SemanticSegmentor" cannot train; use "MaskFormer"'
        )
    if cfg.MODEL.MASK_FORMER.VALID_MASK:
        raise InputError(
            "MODEL.MASK_FORMER.VALID_MASK is True, which MODEL.META_ARCHITECTURE "
            '"SemanticSegmentor" does not know; turn it off: its losses leave ignored pixels out '
            "as they are"
        )
    return {
        "backbone": backbone,
        "sem_seg_head": head,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _backbone(cfg: CfgNode) -> Backbone:
    # Detectron2's build_backbone would take another package's component of the same name.
    build = get(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    backbone = build(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    if cfg.MODEL.RESNETS.USE_CHECKPOINT:
        recompute_blocks(backbone)
    return backbone


def _head(cfg: CfgNode, backbone: Backbone) -> nn.Module:
    name = cfg.MODEL.SEM_SEG_HEAD.NAME
    build = get(SEM_SEG_HEADS_REGISTRY, name, "MODEL.SEM_SEG_HEAD.NAME")
    return build(cfg, backbone.output_shape())


def mask_former_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of the meta-architecture."""
    options = cfg.MODEL.MASK_FORMER
    backbone = _backbone(cfg)
    head = _head(cfg, backbone)
    if isinstance(head, (PerPixelBaselineHead, PerPixelBaselinePlusHead)):
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.NAME {cfg.MODEL.SEM_SEG_HEAD.NAME!r} classifies pixels, which "
            'MODEL.META_ARCHITECTURE "MaskFormer" cannot train; use "SemanticSegmentor"'
        )
    if options.VALID_MASK and not takes_padding(head.forward):
        raise InputError(
            f"MODEL.MASK_FORMER.VALID_MASK is True, but MODEL.SEM_SEG_HEAD.NAME "
            f"{cfg.MODEL.SEM_SEG_HEAD.NAME!r} has no argument `padding` in its forward; turn "
            "the key off, or use MaskFormerHead"
        )
    size_divisibility = options.SIZE_DIVISIBILITY
    return {
        "backbone": backbone,
        "sem_seg_head": head,
        "criterion": build_criterion(cfg),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "size_divisibility": (
            backbone.size_divisibility if size_divisibility < 0 else size_divisibility
        ),
        "inference": _inference_options(cfg),
        "valid_mask": options.VALID_MASK,
    }


def _inference_options(cfg: CfgNode) -> InferenceOptions:
    options = cfg.MODEL.MASK_FORMER.TEST
    if not (options.SEMANTIC_ON or options.PANOPTIC_ON or options.INSTANCE_ON):
        raise InputError(
            "MODEL.MASK_FORMER.TEST has SEMANTIC_ON, PANOPTIC_ON and INSTANCE_ON all False: the "
            "model would give no result; turn at least one on"
        )
    if options.SEMANTIC_INFERENCE not in ("marginal", "general"):
        raise InputError(
            f"MODEL.MASK_FORMER.TEST.SEMANTIC_INFERENCE is {options.SEMANTIC_INFERENCE!r}; give "
            "'marginal' or 'general'"
        )
    if options.SEM_SEG_OUTPUT not in ("scores", "labels"):
        raise InputError(
            f"MODEL.MASK_FORMER.TEST.SEM_SEG_OUTPUT is {options.SEM_SEG_OUTPUT!r}; give 'scores' "
            "or 'labels'"
        )
    return InferenceOptions(
        semantic=options.SEMANTIC_ON,
        semantic_labels=options.SEM_SEG_OUTPUT == "labels",
        panoptic=options.PANOPTIC_ON,
        instance=options.INSTANCE_ON,
        general_semantic=options.SEMANTIC_INFERENCE == "general",
        upsample_masks_first=(
            options.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE
            or options.PANOPTIC_ON
            or options.INSTANCE_ON
        ),
        thing_ids=_thing_ids(cfg) if options.PANOPTIC_ON or options.INSTANCE_ON else (),
        object_mask_threshold=options.OBJECT_MASK_THRESHOLD,
        overlap_threshold=options.OVERLAP_THRESHOLD,
        max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


def _thing_ids(cfg: CfgNode) -> frozenset[int]:
    """The things of the first training data set, which decides at test time too."""
    if not cfg.DATASETS.TRAIN:
        raise InputError(
            "DATASETS.TRAIN is empty, but MODEL.MASK_FORMER.TEST.{PANOPTIC_ON, INSTANCE_ON} need "
            "the thing classes of the first training data set; name it, also when only testing"
        )
    name = cfg.DATASETS.TRAIN[0]
    things = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    if things is not None:
        return frozenset(things.values())
    if cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON:
        raise InputError(
            f"data set {name!r} has no thing_dataset_id_to_contiguous_id in its metadata, which "
            "MODEL.MASK_FORMER.TEST.PANOPTIC_ON needs to tell things from stuff; use a panoptic "
            "data set, or turn PANOPTIC_ON off"
        )
    return frozenset(range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES))


def build_criterion(cfg: CfgNode) -> nn.Module:
    """The criterion that ``MODEL.MASK_FORMER.CRITERION`` names, with its matcher."""
    options = cfg.MODEL.MASK_FORMER
    matcher = get(MATCHER_REGISTRY, options.MATCHER, "MODEL.MASK_FORMER.MATCHER")(cfg)
    build = get(CRITERION_REGISTRY, options.CRITERION, "MODEL.MASK_FORMER.CRITERION")
    return build(cfg, matcher)


def _loss_weights(cfg: CfgNode) -> LossWeights:
    options = cfg.MODEL.MASK_FORMER
    return LossWeights(mask=options.MASK_WEIGHT, dice=options.DICE_WEIGHT)


def _point_options(cfg: CfgNode) -> PointOptions | None:
    """Where masks are scored; None: at all pixels."""
    prefix, options = "MODEL.MASK_FORMER", cfg.MODEL.MASK_FORMER
    check_at_least(cfg, 0, f"{prefix}.TRAIN_NUM_POINTS", f"{prefix}.IMPORTANCE_SAMPLE_RATIO")
    check_at_least(cfg, 1, f"{prefix}.OVERSAMPLE_RATIO")
    share = options.IMPORTANCE_SAMPLE_RATIO
    if share > 1:
        raise InputError(f"{prefix}.IMPORTANCE_SAMPLE_RATIO is {share}; it must be at most 1")
    if options.TRAIN_NUM_POINTS == 0:
        return None
    return PointOptions(options.TRAIN_NUM_POINTS, options.OVERSAMPLE_RATIO, share)


@register(MATCHER_REGISTRY, "bipartite")
def _bipartite_matcher(cfg: CfgNode) -> Matcher:
    return partial(bipartite_matching, weights=_loss_weights(cfg))


@register(MATCHER_REGISTRY, "fixed")
def _fixed_matcher(cfg: CfgNode) -> Matcher:
    queries = cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if queries != classes:
        raise InputError(
            f'MODEL.MASK_FORMER.MATCHER is "fixed", in which query k answers for class k, but '
            f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {queries} and "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {classes}; make them equal"
        )
    return fixed_matching


@register(CRITERION_REGISTRY, "SetCriterion")
def _set_criterion(cfg: CfgNode, matcher: Matcher) -> SetCriterion:
    weights = ("NO_OBJECT_WEIGHT", "MASK_WEIGHT", "DICE_WEIGHT")
    check_at_least(cfg, 0, *(f"MODEL.MASK_FORMER.{name}" for name in weights))
    return SetCriterion(
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        matcher=matcher,
        weights=_loss_weights(cfg),
        no_object_weight=cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT,
        points=_point_options(cfg),
    )
