"""Builds whole models from ``cfg.MODEL``; heads and backbones have builders in their own files."""

from collections.abc import Sequence
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
    SemanticSegmentor,
)
from torch import nn

from ...functional.matching import bipartite_matching, fixed_matching
from ...functional.points import PointOptions
from ...modeling.criterion import Matcher, SetCriterion
from ...modeling.head import MaskFormerHead, takes_padding
from ...modeling.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead
from ...modeling.swin import SwinTransformer
from ...structures import InferenceOptions, LossWeights
from ..config import (
    INFERENCE_ARGUMENTS,
    POINT_ARGUMENTS,
    WEIGHT_ARGUMENTS,
    arguments_from,
    check_device,
)
from ..configuring.checks import check_config
from ..data.checks import check_name
from ..data.datasets import register_descriptions
from ..errors import InputError
from ..gradient_checkpointing import recompute_blocks
from .head import check_query_for_each_class
from .registry import CRITERION_REGISTRY, MATCHER_REGISTRY, get, register


def build_model(cfg: CfgNode) -> nn.Module:
    """The whole model on its device, without weights; our components before others' of the name."""
    check_device(cfg.MODEL.DEVICE)
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


def _compile(model: Any) -> None:
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
    arguments = _network_arguments(cfg)
    if isinstance(arguments["sem_seg_head"], MaskFormerHead):
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.NAME {cfg.MODEL.SEM_SEG_HEAD.NAME!r} gives masks and classes, "
            'which MODEL.META_ARCHITECTURE "SemanticSegmentor" cannot train; use "MaskFormer"'
        )
    if cfg.MODEL.MASK_FORMER.CLASS_WEIGHTS:
        raise InputError(
            "MODEL.MASK_FORMER.CLASS_WEIGHTS are set, which MODEL.META_ARCHITECTURE "
            '"SemanticSegmentor" does not know; leave them empty'
        )
    if cfg.MODEL.MASK_FORMER.VALID_MASK:
        raise InputError(
            "MODEL.MASK_FORMER.VALID_MASK is True, which MODEL.META_ARCHITECTURE "
            '"SemanticSegmentor" does not know; turn it off: its losses leave ignored pixels out '
            "as they are"
        )
    if any(cfg.MODEL.MASK_FORMER.TEST.TILES):
        raise InputError(
            f"MODEL.MASK_FORMER.TEST.TILES is {cfg.MODEL.MASK_FORMER.TEST.TILES}, which "
            'MODEL.META_ARCHITECTURE "SemanticSegmentor" does not know; set it to [0, 0]'
        )
    return arguments


def mask_former_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of our meta-architecture."""
    options = cfg.MODEL.MASK_FORMER
    arguments = _network_arguments(cfg)
    head = arguments["sem_seg_head"]
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
    divisor = options.SIZE_DIVISIBILITY
    return {
        **arguments,
        "criterion": build_criterion(cfg),
        "size_divisibility": arguments["backbone"].size_divisibility if divisor < 0 else divisor,
        "inference": _inference_options(cfg),
        "valid_mask": options.VALID_MASK,
    }


def _network_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Backbone, head and normalisation, which both meta-architectures take under these names."""
    check_config(cfg)
    register_descriptions(cfg)  # other people's trainers build the model first
    # Detectron2's build_backbone would take another package's component of the same name.
    build = get(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    backbone = build(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    if cfg.MODEL.RESNETS.USE_CHECKPOINT:
        recompute_blocks(backbone)
    build = get(SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME, "MODEL.SEM_SEG_HEAD.NAME")
    return {
        "backbone": backbone,
        "sem_seg_head": build(cfg, backbone.output_shape()),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _inference_options(cfg: CfgNode) -> InferenceOptions:
    options = cfg.MODEL.MASK_FORMER.TEST
    by_segments = options.PANOPTIC_ON or options.INSTANCE_ON
    if not (options.SEMANTIC_ON or by_segments):
        raise InputError(
            "MODEL.MASK_FORMER.TEST has SEMANTIC_ON, PANOPTIC_ON and INSTANCE_ON all False: the "
            "model would give no result; turn at least one on"
        )
    _check_tiles(options.TILES)
    inference = InferenceOptions(**arguments_from(options, INFERENCE_ARGUMENTS))
    return inference._replace(
        general_semantic=options.SEMANTIC_INFERENCE == "general",
        semantic_labels=options.SEM_SEG_OUTPUT == "labels",
        upsample_masks_first=inference.upsample_masks_first or by_segments,
        thing_ids=_thing_ids(cfg) if by_segments else (),
        max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


def _check_tiles(tiles: Sequence[int]) -> None:
    """Refuses an overlap that is no smaller than the side."""
    side, overlap = tiles
    if overlap >= side and any(tiles):
        raise InputError(
            f"MODEL.MASK_FORMER.TEST.TILES is {tiles}; give the side of a tile and the overlap in "
            "pixels, which must be smaller, such as [1024, 128]; [0, 0] means no tiles"
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
    check_name(name)
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


@register(MATCHER_REGISTRY, "bipartite")
def build_bipartite_matcher(cfg: CfgNode) -> Matcher:
    """The assignment of least cost, with the weights of the losses."""
    return partial(bipartite_matching, weights=_loss_weights(cfg))


@register(MATCHER_REGISTRY, "fixed")
def build_fixed_matcher(cfg: CfgNode) -> Matcher:
    """Query k for class k."""
    check_query_for_each_class(cfg, "MODEL.MASK_FORMER.MATCHER", "fixed")
    return fixed_matching


@register(CRITERION_REGISTRY, "SetCriterion")
def build_set_criterion(cfg: CfgNode, matcher: Matcher) -> SetCriterion:
    """The paper's losses."""
    options, prefix = cfg.MODEL.MASK_FORMER, "MODEL.MASK_FORMER"
    num_classes, class_weights = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, options.CLASS_WEIGHTS
    if class_weights and len(class_weights) != num_classes:
        raise InputError(
            f"{prefix}.CLASS_WEIGHTS has {len(class_weights)} numbers for {num_classes} classes; "
            "give one for each, or none"
        )
    points = PointOptions(options.TRAIN_NUM_POINTS, **arguments_from(options, POINT_ARGUMENTS))
    return SetCriterion(
        num_classes=num_classes,
        matcher=matcher,
        class_weights=class_weights,
        weights=_loss_weights(cfg),
        no_object_weight=options.NO_OBJECT_WEIGHT,
        points=points if points.number else None,
    )


def _loss_weights(cfg: CfgNode) -> LossWeights:
    return LossWeights(**arguments_from(cfg.MODEL.MASK_FORMER, WEIGHT_ARGUMENTS))
