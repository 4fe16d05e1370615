"""A backbone for small data sets, put together from Detectron2's ResNet parts."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

from mask_former.d2.registry import register


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
