"""Turns ``cfg.MODEL`` into plain constructor arguments: the only reader of that section."""

from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_backbone
from torch import nn

from mask_former.d2.errors import InputError
from mask_former.d2.registry import (
    CRITERION_REGISTRY,
    MASK_DECODER_REGISTRY,
    MATCHER_REGISTRY,
    get,
    register,
)
from mask_former.functional.matching import bipartite_matching
from mask_former.modeling.criterion import Matcher, SetCriterion
from mask_former.modeling.head import MaskFormerHead
from mask_former.modeling.mask_decoder import TransformerMaskDecoder
from mask_former.modeling.pixel_decoder import BasePixelDecoder
from mask_former.structures import LossWeights

Shapes = dict[str, ShapeSpec]


def build_model(cfg: CfgNode) -> nn.Module:
    """The whole model on its device, without weights; our components before others' of the name."""
    model = get(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(cfg.MODEL.DEVICE)


def mask_former_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of the meta-architecture."""
    options = cfg.MODEL.MASK_FORMER
    backbone = build_backbone(cfg)
    head = get(SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, backbone.output_shape())
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
        "panoptic_on": options.TEST.PANOPTIC_ON,
        "thing_ids": _thing_ids(cfg) if options.TEST.PANOPTIC_ON else (),
        "object_mask_threshold": options.TEST.OBJECT_MASK_THRESHOLD,
        "overlap_threshold": options.TEST.OVERLAP_THRESHOLD,
        "upsample_masks_first": (
            options.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE or options.TEST.PANOPTIC_ON
        ),
    }


def _thing_ids(cfg: CfgNode) -> frozenset[int]:
    """The things of the first training data set, which decides at test time too."""
    if not cfg.DATASETS.TRAIN:
        raise InputError(
            "DATASETS.TRAIN is empty, but MODEL.MASK_FORMER.TEST.PANOPTIC_ON needs the thing "
            "classes of the first training data set; name it, also when only testing"
        )
    name = cfg.DATASETS.TRAIN[0]
    things = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    if things is None:
        raise InputError(
            f"data set {name!r} has no thing_dataset_id_to_contiguous_id in its metadata, which "
            "MODEL.MASK_FORMER.TEST.PANOPTIC_ON needs to tell things from stuff; use a panoptic "
            "data set, or turn PANOPTIC_ON off"
        )
    return frozenset(things.values())


def build_criterion(cfg: CfgNode) -> nn.Module:
    """The criterion that ``MODEL.MASK_FORMER.CRITERION`` names, with its matcher."""
    options = cfg.MODEL.MASK_FORMER
    matcher = get(MATCHER_REGISTRY, options.MATCHER)(cfg)
    return get(CRITERION_REGISTRY, options.CRITERION)(cfg, matcher)


def _loss_weights(cfg: CfgNode) -> LossWeights:
    options = cfg.MODEL.MASK_FORMER
    return LossWeights(mask=options.MASK_WEIGHT, dice=options.DICE_WEIGHT)


@register(MATCHER_REGISTRY, "bipartite")
def _bipartite_matcher(cfg: CfgNode) -> Matcher:
    return partial(bipartite_matching, weights=_loss_weights(cfg))


@register(CRITERION_REGISTRY, "SetCriterion")
def _set_criterion(cfg: CfgNode, matcher: Matcher) -> SetCriterion:
    return SetCriterion(
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        matcher=matcher,
        weights=_loss_weights(cfg),
        no_object_weight=cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT,
    )


@register(SEM_SEG_HEADS_REGISTRY, "MaskFormerHead")
def _mask_former_head(cfg: CfgNode, input_shape: Shapes) -> MaskFormerHead:
    in_feature = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
    pixel_decoder = build_pixel_decoder(cfg, input_shape)
    in_channels = _transformer_in_channels(cfg, input_shape)
    return MaskFormerHead(
        pixel_decoder=pixel_decoder,
        mask_decoder=get(MASK_DECODER_REGISTRY, cfg.MODEL.MASK_FORMER.MASK_DECODER)(
            cfg, in_channels
        ),
        transformer_in_feature=in_feature,
    )


def _transformer_in_channels(cfg: CfgNode, input_shape: Shapes) -> int:
    in_feature = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
    if in_feature == "transformer_encoder":
        return cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
    if in_feature not in input_shape:
        raise InputError(
            f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {in_feature!r}; the backbone gives "
            f'{", ".join(input_shape)}, the pixel decoder "transformer_encoder"'
        )
    return input_shape[in_feature].channels


@register(MASK_DECODER_REGISTRY, "TransformerPredictor")
def _transformer_predictor(cfg: CfgNode, in_channels: int) -> TransformerMaskDecoder:
    options = cfg.MODEL.MASK_FORMER
    return TransformerMaskDecoder(
        in_channels=in_channels,
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        num_queries=options.NUM_OBJECT_QUERIES,
        hidden_dim=options.HIDDEN_DIM,
        mask_dim=cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        num_heads=options.NHEADS,
        feedforward=options.DIM_FEEDFORWARD,
        dropout=options.DROPOUT,
        encoder_layers=options.ENC_LAYERS,
        decoder_layers=options.DEC_LAYERS,
        pre_norm=options.PRE_NORM,
        deep_supervision=options.DEEP_SUPERVISION,
        enforce_input_projection=options.ENFORCE_INPUT_PROJ,
    )


def build_pixel_decoder(cfg: CfgNode, input_shape: Shapes) -> nn.Module:
    """The pixel decoder that ``MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME`` names.

    Raises:
        ValueError: it has no ``forward_features``.
    """
    name = cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME
    decoder = get(SEM_SEG_HEADS_REGISTRY, name)(cfg, input_shape)
    if not callable(getattr(decoder, "forward_features", None)):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME {name!r} cannot serve as pixel decoder: "
            f"{type(decoder).__name__} has no method forward_features"
        )
    return decoder


@register(SEM_SEG_HEADS_REGISTRY, "BasePixelDecoder")
def _base_pixel_decoder(cfg: CfgNode, input_shape: Shapes) -> BasePixelDecoder:
    return BasePixelDecoder(**_pixel_decoder_arguments(cfg, input_shape))


def _pixel_decoder_arguments(cfg: CfgNode, input_shape: Shapes) -> dict[str, Any]:
    options = cfg.MODEL.SEM_SEG_HEAD
    missing = [name for name in options.IN_FEATURES if name not in input_shape]
    if missing:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES asks for {', '.join(missing)}; the backbone gives "
            f"{', '.join(input_shape)}"
        )
    finest_first = sorted(options.IN_FEATURES, key=lambda name: input_shape[name].stride)
    return {
        "in_channels": {name: input_shape[name].channels for name in finest_first},
        "conv_dim": options.CONVS_DIM,
        "mask_dim": options.MASK_DIM,
        "norm": _norm_factory(options.NORM),
    }


def _norm_factory(norm: str) -> Callable[[int], nn.Module] | None:
    return partial(get_norm, norm) if norm else None
