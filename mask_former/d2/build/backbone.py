"""Backbones that Detectron2 lacks: Swin, and a tiny ResNet for small data sets."""

from collections.abc import Sequence
from typing import Self

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from ...modeling.swin import SwinTransformer
from ..config import SWIN_ARGUMENTS, arguments_from
from ..errors import InputError
from .registry import register


class D2SwinTransformer(SwinTransformer, Backbone):
    """:class:`SwinTransformer` with what Detectron2 asks of a backbone."""

    _frozen: Sequence[nn.Module] = ()

    def freeze(self, freeze_at: int) -> None:
        """Fixes the first parts, which then train no weight and leave no block out at random.

        Args:
            freeze_at: 0 for nothing, 1 for the patch embedding, n for n - 1 stages as well.

        Raises:
            ValueError: there are not so many stages.
        """
        if not 0 <= freeze_at <= 1 + len(self.layers):
            raise ValueError(f"it must be 0 to {1 + len(self.layers)}, got {freeze_at}")
        first = [self.patch_embed, self.pos_drop, *self.layers]
        self._frozen = first[: freeze_at + 1] if freeze_at else ()
        for part in self._frozen:
            part.requires_grad_(False)
        if self._frozen and self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As in every module, but that frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

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
        backbone = D2SwinTransformer(
            **arguments_from(options, SWIN_ARGUMENTS),
            absolute_grid=options.PRETRAIN_IMG_SIZE // options.PATCH_SIZE if options.APE else None,
        )
    except ValueError as error:
        raise InputError(
            f"MODEL.SWIN (OUT_FEATURES, DEPTHS, NUM_HEADS, EMBED_DIM): {error}"
        ) from error
    try:
        backbone.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    except ValueError as error:
        raise InputError(f"MODEL.BACKBONE.FREEZE_AT: {error}") from error
    return backbone


class _FineStem(BasicStem):
    """The stem without its max pooling, so that there is a feature of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__(in_channels, out_channels, norm)
        self.stride = 2

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x).relu_()


class _PooledBlock(BasicBlock):
    """The first block, with the max pooling that the fine stem lacks."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        super().__init__(in_channels, out_channels, stride=1, norm=norm)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(max_pool2d(x, kernel_size=3, stride=self.stride, padding=1))


@register(BACKBONE_REGISTRY, "build_tiny_resnet_backbone")
def build_tiny_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """A ResNet with one basic block in each of its four stages, for training from scratch.

    Reads ``MODEL.RESNETS.{NORM, STEM_OUT_CHANNELS, RES2_OUT_CHANNELS, OUT_FEATURES}``; channels
    double from stage to stage, strides are 4, 8, 16 and 32. Detectron2's own ResNets start at two
    blocks a stage. The feature ``stem`` has stride 2, from before the max pooling, and its weights
    and those of the rest are the same with it and without.
    """
    options = cfg.MODEL.RESNETS
    norm, width, channels = options.NORM, options.STEM_OUT_CHANNELS, options.RES2_OUT_CHANNELS
    fine = "stem" in options.OUT_FEATURES
    stages = []
    for stage in range(4):
        stages.append(
            ResNet.make_stage(
                _PooledBlock if fine and stage == 0 else BasicBlock,
                num_blocks=1,
                in_channels=width,
                out_channels=channels,
                norm=norm,
                stride_per_block=[2 if fine or stage > 0 else 1],
            )
        )
        width, channels = channels, 2 * channels
    make_stem = _FineStem if fine else BasicStem
    stem = make_stem(input_shape.channels, options.STEM_OUT_CHANNELS, norm)
    return ResNet(stem, stages, out_features=options.OUT_FEATURES)
