"""Pixel decoders: backbone features to per-pixel embeddings (paper, sections 3.3 and 4.1)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..structures import Padding
from .layers import ConvNorm, NormFactory, group_norm, init_conv
from .tokens import image_tokens
from .transformer import TransformerEncoder


class PixelDecoderOutput(NamedTuple):
    """What every pixel decoder gives."""

    pixel_embed: Tensor
    """[B, D, h, w]; without the last convolution [B, C, h, w]."""
    encoded: Tensor | None
    """[B, C, height, width] of the coarsest feature after attention; None without an encoder."""


class BasePixelDecoder(nn.Module):
    """Feature pyramid (Lin et al. 2017) that ends at the finest feature.

    Attribute names (``adapter_1``, ``layer_1``, …; 1 is the finest feature) give the state-dict
    keys of the published checkpoints.
    """

    encoded_channels: int | None = None
    """Of the ``encoded`` feature; None where there is none."""
    mask_features: nn.Conv2d
    """The last convolution, to the embeddings."""

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

    def forward(
        self, features: dict[str, Tensor], *, embed: bool = True, release: bool = False
    ) -> PixelDecoderOutput:
        """Per-pixel embeddings at the resolution of the finest feature.

        Args:
            features: [B, channels, height, width] by name; other names are ignored.
            embed: False leaves out the last convolution, ``mask_features``.
            release: takes features out of the dict when they have been used, all but the coarsest:
                less memory, if nobody else holds them and no gradient needs them.
        """
        coarsest = features[self.in_features[-1]]
        return PixelDecoderOutput(self._top_down(features, coarsest, embed, release), None)

    def forward_features(
        self, features: dict[str, Tensor], *, embed: bool = True, release: bool = False
    ) -> PixelDecoderOutput:
        """The name under which Detectron2 projects call a pixel decoder; the same as calling it."""
        return self(features, embed=embed, release=release)

    def _top_down(
        self, features: dict[str, Tensor], coarsest: Tensor, embed: bool, release: bool
    ) -> Tensor:
        """From the coarsest feature down to the per-pixel embeddings [B, D, h, w]."""
        take = features.pop if release else features.__getitem__
        x = self.get_submodule(f"layer_{len(self.in_features)}")(coarsest)
        for i in range(len(self.in_features) - 1, 0, -1):
            summed = [self.get_submodule(f"adapter_{i}")([take(self.in_features[i - 1])])]
            summed[0] += F.interpolate(x, size=summed[0].shape[-2:], mode="nearest")
            x = self.get_submodule(f"layer_{i}")(summed)
        return self.mask_features(x) if embed else x


class TransformerEncoderPixelDecoder(BasePixelDecoder):
    """The same with DETR's encoder on the coarsest feature, as the COCO panoptic ResNets have."""

    takes_padding = True

    def __init__(
        self,
        in_channels: Mapping[str, int],
        *,
        conv_dim: int = 256,
        mask_dim: int = 256,
        norm: NormFactory | None = group_norm,
        encoder_layers: int = 6,
        num_heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
    ) -> None:
        """
        Args:
            in_channels: as :class:`BasePixelDecoder`.
            conv_dim: channels inside the decoder, the encoder included; even, and divisible by
                ``num_heads``.
            mask_dim: D.
            norm: as :class:`BasePixelDecoder`.
            encoder_layers: transformer encoder layers.
            num_heads: attention heads.
            feedforward: width of the FFNs.
            dropout: in [0, 1).
            pre_norm: norm before each step instead of after it.
        """
        super().__init__(in_channels, conv_dim=conv_dim, mask_dim=mask_dim, norm=norm)
        self.encoded_channels = conv_dim
        self.input_proj = nn.Conv2d(in_channels[self.in_features[-1]], conv_dim, kernel_size=1)
        init_conv(self.input_proj)
        encoder = TransformerEncoder(
            channels=conv_dim,
            num_heads=num_heads,
            feedforward=feedforward,
            dropout=dropout,
            num_layers=encoder_layers,
            pre_norm=pre_norm,
        )
        self.transformer = nn.ModuleDict({"encoder": encoder})
        # Deleted first, so that the new one comes last: the order of parameters is the order of
        # the optimizer state in published checkpoints.
        coarsest = f"layer_{len(in_channels)}"
        delattr(self, coarsest)
        self.add_module(coarsest, ConvNorm(conv_dim, conv_dim, 3, norm, relu=True))

    def forward(
        self,
        features: dict[str, Tensor],
        padding: Padding | None = None,
        *,
        embed: bool = True,
        release: bool = False,
    ) -> PixelDecoderOutput:
        """Per-pixel embeddings at the finest resolution, and the encoded coarsest feature.

        Args:
            features: [B, channels, height, width] by name; other names are ignored.
            padding: kept out of attention, not out of convolutions and norms; None: all is image.
            embed: as :class:`BasePixelDecoder`.
            release: likewise.
        """
        x = self.input_proj(features[self.in_features[-1]])
        tokens = self.transformer["encoder"](*image_tokens(x, padding))
        encoded = tokens.transpose(1, 2).view_as(x)  # [B, C, height, width]
        return PixelDecoderOutput(self._top_down(features, encoded, embed, release), encoded)

    def forward_features(
        self,
        features: dict[str, Tensor],
        padding: Padding | None = None,
        *,
        embed: bool = True,
        release: bool = False,
    ) -> PixelDecoderOutput:
        """The same as calling it."""
        return self(features, padding, embed=embed, release=release)


class PerPixelHeadAsPixelDecoder(nn.Module):
    """Lets any per-pixel classifier serve as pixel decoder (paper, section 3.3).

    A classifier of D classes gives D values a pixel: taken as embedding instead of as scores, they
    are what the mask decoder needs.
    """

    encoded_channels: int | None = None
    head: Any

    def __init__(self, head: nn.Module) -> None:
        """
        Args:
            head: its method ``layers`` takes features by name and gives [B, D, h, w], as the
                semantic heads of Detectron2 do.
        """
        super().__init__()
        self.head = head

    def forward(self, features: Mapping[str, Tensor]) -> PixelDecoderOutput:
        """Per-pixel embeddings at the resolution of the head.

        Args:
            features: [B, channels, height, width] by name.
        """
        return PixelDecoderOutput(self.head.layers(features), None)

    def forward_features(self, features: Mapping[str, Tensor]) -> PixelDecoderOutput:
        """The same as calling it."""
        return self(features)
