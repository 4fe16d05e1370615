"""Pixel decoders: backbone features to per-pixel embeddings (paper, sections 3.3 and 4.1)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..structures import Padding
from .layers import ConvNorm, NormFactory, group_norm, init_conv
from .position_encoding import check_even, image_tokens
from .transformer import LayerOptions, TransformerEncoder

Features = Mapping[str, Tensor] | Sequence[Tensor]


class PixelDecoderOutput(NamedTuple):
    """What every pixel decoder gives."""

    pixel_embed: Tensor
    """[B, D, h, w]"""
    encoded: Tensor | None
    """[B, C, height, width], the coarsest feature after attention; None without an encoder."""


class BasePixelDecoder(nn.Module):
    """Feature pyramid (Lin et al. 2017) that ends at the finest feature.

    Attribute names (``adapter_1``, ``layer_1``, …; 1 is the finest feature) give the state-dict
    keys of the published checkpoints.
    """

    encoded_channels: int | None = None
    """Channels of the ``encoded`` feature; None where there is none."""
    mask_features: nn.Conv2d
    """The last convolution, to the embeddings."""

    def __init__(
        self,
        in_channels: Mapping[str, int] | Sequence[int],
        *,
        conv_dim: int = 256,
        mask_dim: int = 256,
        norm: NormFactory | None = group_norm,
    ) -> None:
        """Builds the pyramid.

        Args:
            in_channels: channels of each feature, finest first, at least one: by name, or a
                sequence for features that come as one.
            conv_dim: channels inside the decoder.
            mask_dim: D, channels of the per-pixel embedding.
            norm: makes the norm of a convolution from its channels; None for none.

        Raises:
            ValueError: there is no feature.
        """
        super().__init__()
        if not in_channels:
            raise ValueError("in_channels is empty: the pixel decoder needs at least one feature")
        if not isinstance(in_channels, Mapping):
            in_channels = {str(i): channels for i, channels in enumerate(in_channels)}
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

    def forward(self, features: Features, padding: Padding | None = None) -> PixelDecoderOutput:
        """Per-pixel embeddings at the resolution of the finest feature.

        Args:
            features: [B, channels, height, width] each, by name or in a sequence, finest first;
                other names are ignored.
            padding: where the images end; padding is kept out of attention, not out of
                convolutions and norms. None: all is image.

        Raises:
            ValueError: the features are not as many as the decoder has, or a later one is finer.
        """
        x, encoded = self.decode(features, padding)
        return PixelDecoderOutput(self.mask_features(x), encoded)

    def forward_features(
        self, features: Features, padding: Padding | None = None
    ) -> PixelDecoderOutput:
        """The name under which Detectron2 projects call a pixel decoder; the same as calling it."""
        return self(features, padding)

    def decode(
        self, features: Features, padding: Padding | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What the last convolution takes, [B, conv_dim, h, w], and the encoded feature."""
        *fine, coarsest = self._in_order(features)
        x, encoded = self.encode(coarsest, padding)
        x = self.get_submodule(f"layer_{len(self.in_features)}")(x)
        for i in range(len(fine), 0, -1):
            lateral = self.get_submodule(f"adapter_{i}")(fine[i - 1])
            # The map that is new is changed in place; the other may be kept by a hook.
            coarser = F.interpolate(x, size=lateral.shape[-2:], mode="nearest")
            x = self.get_submodule(f"layer_{i}")(coarser.add_(lateral))
        return x, encoded

    def encode(self, coarsest: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor | None]:
        """The coarsest feature as the pyramid takes it, and as the queries may look at it.

        Without attention padding makes no difference.
        """
        return coarsest, None

    def _in_order(self, features: Features) -> list[Tensor]:
        if isinstance(features, Mapping):
            maps = [features[name] for name in self.in_features]
        else:
            maps = list(features)
        if len(maps) != len(self.in_features):
            raise ValueError(
                f"the pixel decoder has {len(self.in_features)} features, got {len(maps)}"
            )
        # Sizes are no numbers to a tracer.
        if torch.jit.is_tracing():
            return maps
        sizes = [list(x.shape[-2:]) for x in maps]
        if any(b[0] > a[0] or b[1] > a[1] for a, b in pairwise(sizes)):
            raise ValueError(
                f"features must come finest first, got heights and widths {sizes} for "
                f"{', '.join(self.in_features)}; name in_channels in that order"
            )
        return maps


class TransformerEncoderPixelDecoder(BasePixelDecoder):
    """The same with DETR's encoder on the coarsest feature, as the COCO panoptic ResNets have.

    Args:
        in_channels: as :class:`BasePixelDecoder`.
        encoder_layers: transformer encoder layers.
        num_heads: attention heads.
        feedforward: width of the FFNs.
        dropout: share of dropped activations, in [0, 1).
        pre_norm: norm before each step instead of after it.
        conv_dim: channels inside the decoder, the encoder included; even, and divisible by
            ``num_heads``.
        mask_dim: D.
        norm: as :class:`BasePixelDecoder`.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int] | Sequence[int],
        *,
        encoder_layers: int = 6,
        num_heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
        conv_dim: int = 256,
        mask_dim: int = 256,
        norm: NormFactory | None = group_norm,
    ) -> None:
        super().__init__(in_channels, conv_dim=conv_dim, mask_dim=mask_dim, norm=norm)
        check_even(conv_dim)
        self.encoded_channels = conv_dim
        coarsest = f"layer_{len(self.in_features)}"
        *_, channels = in_channels.values() if isinstance(in_channels, Mapping) else in_channels
        self.input_proj = nn.Conv2d(channels, conv_dim, kernel_size=1)
        init_conv(self.input_proj)
        options = LayerOptions(conv_dim, num_heads, feedforward, dropout, pre_norm)
        self.transformer = nn.ModuleDict({"encoder": TransformerEncoder(encoder_layers, options)})
        # Deleted first, so that the new one comes last: the order of parameters is the order of
        # the optimizer state in published checkpoints.
        delattr(self, coarsest)
        self.add_module(coarsest, ConvNorm(conv_dim, conv_dim, 3, norm, relu=True))

    def encode(self, coarsest: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """The encoded feature [B, conv_dim, height, width], for pyramid and queries."""
        x = self.input_proj(coarsest)
        tokens = self.transformer["encoder"](*image_tokens(x, padding))
        encoded = tokens.transpose(1, 2).view_as(x)
        return encoded, encoded


class PerPixelHeadAsPixelDecoder(nn.Module):
    """Lets any per-pixel classifier serve as pixel decoder (paper, section 3.3).

    A classifier of D classes gives D values a pixel: taken as embedding instead of as scores, they
    are what the mask decoder needs.
    """

    encoded_channels: int | None = None
    head: Any

    def __init__(self, head: nn.Module) -> None:
        """Wraps a classifier.

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
