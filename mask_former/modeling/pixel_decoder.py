"""Pixel decoder: backbone features to per-pixel embeddings (paper, sections 3.3 and 4.1)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.modeling.layers import ConvNorm, NormFactory, group_norm, init_conv


class PixelDecoderOutput(NamedTuple):
    """What every pixel decoder gives."""

    pixel_embed: Tensor
    """[B, D, h, w]"""
    encoded: Tensor | None
    """[B, C, height, width] of the coarsest feature after attention; None without an encoder."""


class BasePixelDecoder(nn.Module):
    """Feature pyramid (Lin et al. 2017) that ends at the finest feature.

    Attribute names (``adapter_1``, ``layer_1``, …; 1 is the finest feature) give the state-dict
    keys of the published checkpoints.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        *,
        conv_dim: int = 256,
        mask_dim: int = 256,
        norm: NormFactory | None = group_norm,
    ) -> None:
        """
        Args:
            in_channels: channels of each feature by its name, finest first; at least one.
            conv_dim: channels inside the decoder.
            mask_dim: D, channels of the per-pixel embedding.
            norm: makes the norm of a convolution from its channels; None for none.
        """
        super().__init__()
        if not in_channels:
            raise ValueError("in_channels is empty: the pixel decoder needs at least one feature")
        self.in_features = list(in_channels)
        *fine, coarsest = in_channels.values()
        for i, channels in enumerate(fine, start=1):
            self.add_module(f"adapter_{i}", ConvNorm(channels, conv_dim, 1, norm, relu=False))
            self.add_module(f"layer_{i}", ConvNorm(conv_dim, conv_dim, 3, norm, relu=True))
        self.add_module(
            f"layer_{len(in_channels)}", ConvNorm(coarsest, conv_dim, 3, norm, relu=True)
        )
        self.mask_features = nn.Conv2d(conv_dim, mask_dim, kernel_size=3, padding=1)
        init_conv(self.mask_features)

    def forward(self, features: Mapping[str, Tensor]) -> PixelDecoderOutput:
        """Per-pixel embeddings at the resolution of the finest feature.

        Args:
            features: [B, channels, height, width] by name; other names are ignored.
        """
        return PixelDecoderOutput(self._top_down(features, features[self.in_features[-1]]), None)

    def forward_features(self, features: Mapping[str, Tensor]) -> PixelDecoderOutput:
        """The name under which Detectron2 projects call a pixel decoder; the same as calling it."""
        return self(features)

    def _top_down(self, features: Mapping[str, Tensor], coarsest: Tensor) -> Tensor:
        """From the coarsest feature down to the per-pixel embeddings [B, D, h, w]."""
        x = self.get_submodule(f"layer_{len(self.in_features)}")(coarsest)
        for i in range(len(self.in_features) - 1, 0, -1):
            lateral = self.get_submodule(f"adapter_{i}")(features[self.in_features[i - 1]])
            x = lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest")
            x = self.get_submodule(f"layer_{i}")(x)
        return self.mask_features(x)
