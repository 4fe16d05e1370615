"""Backbones that Detectron2 lacks: Swin, and a tiny ResNet for small data sets."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

from ...modeling.swin import SwinTransformer
from ..config import SWIN_ARGUMENTS, arguments_from
from ..errors import InputError
from .registry import register


class D2SwinTransformer(SwinTransformer, Backbone):
    """:class:`SwinTransformer` with what Detectron2 asks of a backbone."""

    @property
    def size_divisibility(self) -> int:
        """Any size is welcome; this is the one that needs no padding inside (up to windows)."""
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature by name."""
        return {
            name: ShapeSpec(channels=self.channels[name], stride=self.strides[name])
            for name in self.out_features
        }


@register(BACKBONE_REGISTRY, "D2SwinTransformer")
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> D2SwinTransformer:
    """Swin as ``MODEL.SWIN`` describes it; takes RGB, whatever ``input_shape``."""
    options = cfg.MODEL.SWIN
    try:
        return D2SwinTransformer(
            **arguments_from(options, SWIN_ARGUMENTS),
            absolute_grid=options.PRETRAIN_IMG_SIZE // options.PATCH_SIZE if options.APE else None,
        )
    except ValueError as error:
        raise InputError(
            f"MODEL.SWIN (OUT_FEATURES, DEPTHS, NUM_HEADS, EMBED_DIM): {error}"
        ) from error


@register(BACKBONE_REGISTRY, "build_tiny_resnet_backbone")
def build_tiny_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """A ResNet with one basic block in each of its four stages, for training from scratch.

    Reads ``MODEL.RESNETS.{NORM, STEM_OUT_CHANNELS, RES2_OUT_CHANNELS, OUT_FEATURES}``; channels
    double from stage to stage, strides are 4, 8, 16 and 32. Detectron2's own ResNets start at two
    blocks a stage.
    """
    options = cfg.MODEL.RESNETS
    norm, width, channels = options.NORM, options.STEM_OUT_CHANNELS, options.RES2_OUT_CHANNELS
    stages = []
    for stage in range(4):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks=1,
                in_channels=width,
                out_channels=channels,
                norm=norm,
                stride_per_block=[1 if stage == 0 else 2],
            )
        )
        width, channels = channels, 2 * channels
    stem = BasicStem(input_shape.channels, options.STEM_OUT_CHANNELS, norm)
    return ResNet(stem, stages, out_features=options.OUT_FEATURES)
