"""Builds heads and their parts from ``cfg.MODEL``, and refuses keys that contradict each other."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from ...modeling.head import MaskFormerHead
from ...modeling.mask_decoder import TransformerMaskDecoder
from ...modeling.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead
from ...modeling.pixel_decoder import (
    BasePixelDecoder,
    PerPixelHeadAsPixelDecoder,
    TransformerEncoderPixelDecoder,
)
from ..config import DECODER_ARGUMENTS, LAYER_ARGUMENTS, arguments_from
from ..errors import InputError
from .registry import MASK_DECODER_REGISTRY, get, register

Shapes = dict[str, ShapeSpec]

_HEADS = ("MaskFormerHead", "PerPixelBaselineHead", "PerPixelBaselinePlusHead")


@register(SEM_SEG_HEADS_REGISTRY, "MaskFormerHead")
def build_mask_former_head(cfg: CfgNode, input_shape: Shapes) -> MaskFormerHead:
    """The head of mask classification, with the mask decoder that a key names."""
    options = cfg.MODEL.MASK_FORMER
    pixel_decoder = build_pixel_decoder(cfg, input_shape)
    in_channels = _transformer_in_channels(cfg, input_shape, pixel_decoder)
    build = get(MASK_DECODER_REGISTRY, options.MASK_DECODER, "MODEL.MASK_FORMER.MASK_DECODER")
    return MaskFormerHead(
        pixel_decoder=pixel_decoder,
        mask_decoder=build(cfg, in_channels),
        transformer_in_feature=options.TRANSFORMER_IN_FEATURE,
    )


@register(SEM_SEG_HEADS_REGISTRY, "PerPixelBaselineHead")
def build_per_pixel_baseline_head(cfg: CfgNode, input_shape: Shapes) -> PerPixelBaselineHead:
    """The paper's PerPixelBaseline."""
    options = cfg.MODEL.SEM_SEG_HEAD
    return PerPixelBaselineHead(
        pixel_decoder=build_pixel_decoder(cfg, input_shape),
        num_classes=options.NUM_CLASSES,
        mask_dim=options.MASK_DIM,
        ignore_value=options.IGNORE_VALUE,
        loss_weight=options.LOSS_WEIGHT,
    )


@register(SEM_SEG_HEADS_REGISTRY, "PerPixelBaselinePlusHead")
def build_per_pixel_baseline_plus_head(
    cfg: CfgNode, input_shape: Shapes
) -> PerPixelBaselinePlusHead:
    """The paper's PerPixelBaseline+, whose mask decoder has a query for each class."""
    options = cfg.MODEL.SEM_SEG_HEAD
    check_query_for_each_class(cfg, "MODEL.SEM_SEG_HEAD.NAME", options.NAME)
    if cfg.MODEL.MASK_FORMER.MASK_DECODER != "TransformerPredictor":
        raise InputError(
            f"MODEL.MASK_FORMER.MASK_DECODER is {cfg.MODEL.MASK_FORMER.MASK_DECODER!r}, but "
            'PerPixelBaselinePlusHead has only "TransformerPredictor"'
        )
    pixel_decoder = build_pixel_decoder(cfg, input_shape)
    in_channels = _transformer_in_channels(cfg, input_shape, pixel_decoder)
    return PerPixelBaselinePlusHead(
        pixel_decoder=pixel_decoder,
        mask_decoder=_mask_decoder(cfg, in_channels, num_classes=None),
        transformer_in_feature=cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE,
        ignore_value=options.IGNORE_VALUE,
        loss_weight=options.LOSS_WEIGHT,
    )


def _transformer_in_channels(cfg: CfgNode, input_shape: Shapes, pixel_decoder: nn.Module) -> int:
    name = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
    if name == "transformer_encoder":
        # Another project's decoder need not say; the original's rule is CONVS_DIM.
        channels = getattr(pixel_decoder, "encoded_channels", cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM)
        if channels is None:
            raise InputError(
                'MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is "transformer_encoder", but '
                f"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME "
                f"{cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME!r} has no transformer encoder; name a "
                'backbone feature, or use the pixel decoder "TransformerEncoderPixelDecoder"'
            )
        return channels
    if name not in input_shape:
        raise InputError(
            f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {name!r}; the backbone gives "
            f'{", ".join(input_shape)}, the pixel decoder "transformer_encoder"'
        )
    return input_shape[name].channels


@register(MASK_DECODER_REGISTRY, "TransformerPredictor")
def build_transformer_predictor(cfg: CfgNode, in_channels: int) -> TransformerMaskDecoder:
    """The paper's mask decoder, for an image feature of so many channels."""
    return _mask_decoder(cfg, in_channels, num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)


def _mask_decoder(
    cfg: CfgNode, in_channels: int, num_classes: int | None
) -> TransformerMaskDecoder:
    return TransformerMaskDecoder(
        in_channels=in_channels,
        num_classes=num_classes,
        num_queries=cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES,
        mask_dim=cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        **arguments_from(cfg.MODEL.MASK_FORMER, DECODER_ARGUMENTS),
    )


def build_pixel_decoder(cfg: CfgNode, input_shape: Shapes) -> nn.Module:
    """The pixel decoder that ``MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME`` names.

    A per-pixel head, such as Detectron2's ``SemSegFPNHead``, serves as well: with ``MASK_DIM``
    classes, whose scores are the embedding.

    Raises:
        InputError: nobody has registered the name, or it is neither a pixel decoder nor such a
            head.
    """
    key = "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"
    name = cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME
    build = get(SEM_SEG_HEADS_REGISTRY, name, key)
    if name in _HEADS:
        raise InputError(f"{key} {name!r} cannot serve as pixel decoder: it has one itself")
    methods = dir(build) if inspect.isclass(build) else ()
    if "layers" in methods and "forward_features" not in methods:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = cfg.MODEL.SEM_SEG_HEAD.MASK_DIM
        return PerPixelHeadAsPixelDecoder(build(cfg, input_shape))
    decoder = build(cfg, input_shape)
    if not callable(getattr(decoder, "forward_features", None)):
        raise InputError(
            f"{key} {name!r} cannot serve as pixel decoder: {type(decoder).__name__} has no method "
            "forward_features, nor is it a class with a method layers, as Detectron2's heads are"
        )
    return decoder


@register(SEM_SEG_HEADS_REGISTRY, "BasePixelDecoder")
def build_base_pixel_decoder(cfg: CfgNode, input_shape: Shapes) -> BasePixelDecoder:
    """The paper's pixel decoder, a light feature pyramid."""
    return BasePixelDecoder(**_pixel_decoder_arguments(cfg, input_shape))


@register(SEM_SEG_HEADS_REGISTRY, "TransformerEncoderPixelDecoder")
def build_transformer_encoder_pixel_decoder(
    cfg: CfgNode, input_shape: Shapes
) -> TransformerEncoderPixelDecoder:
    """The pixel decoder of the panoptic models, with transformer encoder layers at its start."""
    return TransformerEncoderPixelDecoder(
        **_pixel_decoder_arguments(cfg, input_shape),
        encoder_layers=cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS,
        **arguments_from(cfg.MODEL.MASK_FORMER, LAYER_ARGUMENTS),
    )


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
        "norm": _norm_factory(options.NORM, options.CONVS_DIM),
    }


def _norm_factory(norm: str, channels: int) -> Callable[[int], nn.Module] | None:
    if not norm:
        return None
    try:
        get_norm(norm, channels)
    except ValueError as error:  # how GroupNorm refuses
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.NORM is {norm!r}, but MODEL.SEM_SEG_HEAD.CONVS_DIM {channels}: "
            f"{error}; give a multiple of these groups, or another norm"
        ) from error
    return partial(get_norm, norm)


def check_query_for_each_class(cfg: CfgNode, key: str, value: str) -> None:
    """Refuses another number of queries than of classes, which the value of a key asks for."""
    queries = cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if queries != classes:
        raise InputError(
            f"{key} is {value!r}, in which query k answers for class k, but "
            f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {queries} and "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {classes}; make them equal"
        )
