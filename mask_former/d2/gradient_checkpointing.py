"""Gradient checkpointing for Detectron2's ResNets, which have none of their own."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .errors import InputError


def recompute_blocks(backbone: nn.Module) -> None:
    """Lets the blocks of a ResNet keep no activations in training: less memory, more time.

    Weights, their names and all numbers stay.

    Args:
        backbone: changed in place.

    Raises:
        InputError: it is no ResNet of Detectron2.
    """
    if not isinstance(backbone, ResNet):
        raise InputError(
            "MODEL.RESNETS.USE_CHECKPOINT is True, but MODEL.BACKBONE.NAME gives a "
            f"{type(backbone).__name__}; turn the key off, or use a ResNet (Swin has "
            "MODEL.SWIN.USE_CHECKPOINT)"
        )
    backbone.stages = [RecomputedStage(*stage) for stage in backbone.stages]
    for name, stage in zip(backbone.stage_names, backbone.stages, strict=True):
        setattr(backbone, name, stage)


class RecomputedStage(nn.Sequential):
    """Blocks whose activations the backward pass computes again."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the features of the last block."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        for block in self:
            x = _recomputed(block, x)
        return x


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # a compiled graph changes statistics once
        return checkpoint(block, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        """Around the forward pass, and around its repetition."""
        return contextlib.nullcontext(), _statistics_kept(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms do as before, but count the batch no second time."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
