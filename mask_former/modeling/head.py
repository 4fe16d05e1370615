"""MaskFormer head: pixel decoder, then mask decoder (paper, figure 2)."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..structures import Convolution, MaskPrediction, Padding
from .mask_decoder import TransformerMaskDecoder
from .pixel_decoder import BasePixelDecoder

_logger = logging.getLogger(__name__)


class PixelDecoderCheckpoint(nn.Module):
    """A head with a ``pixel_decoder``, which reads checkpoints of both layouts.

    In version 1 (the published model zoo) the keys of the pixel decoder stood directly below the
    head. Keys tell the layout, not the recorded version: converters lose the version.
    """

    _version = 2
    pixel_decoder: Any
    """A module with a method ``forward_features``, which nn.Module's type does not know."""
    predictor: nn.Module

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        new = (f"{prefix}pixel_decoder.", f"{prefix}predictor.")
        old = [key for key in state_dict if key.startswith(prefix) and not key.startswith(new)]
        for key in old:
            state_dict[f"{prefix}pixel_decoder.{key[len(prefix) :]}"] = state_dict.pop(key)
        if old:
            _logger.info(
                "The checkpoint has the layout of version 1: %d keys of the pixel decoder renamed.",
                len(old),
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def transformer_feature(
        self, name: str, features: Mapping[str, Tensor], encoded: Tensor | None
    ) -> Tensor:
        """The feature that the queries look at.

        Args:
            name: of a backbone feature, or "transformer_encoder".
            features: of the backbone, by name.
            encoded: by the pixel decoder.
        """
        if name != "transformer_encoder":
            return features[name]
        if encoded is None:
            raise ValueError(
                'transformer_in_feature is "transformer_encoder", but '
                f"{type(self.pixel_decoder).__name__} has no transformer encoder"
            )
        return encoded


class MaskFormerHead(PixelDecoderCheckpoint):
    """Backbone features to the (class, mask embedding) pairs of all queries.

    Padding is told to those parts that say ``takes_padding = True``, as a last argument; another
    project's parts need not know of it.
    """

    takes_padding = True

    def __init__(
        self, *, pixel_decoder: nn.Module, mask_decoder: nn.Module, transformer_in_feature: str
    ) -> None:
        """
        Args:
            pixel_decoder: its ``forward_features`` takes features by name and gives a pair as
                ``PixelDecoderOutput``.
            mask_decoder: (feature, pixel embeddings) to a ``MaskPrediction``.
            transformer_in_feature: name of the feature that the queries look at, or
                "transformer_encoder" for the encoded feature of the pixel decoder.
        """
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = mask_decoder
        self.transformer_in_feature = transformer_in_feature

    def forward(
        self,
        features: dict[str, Tensor],
        padding: Padding | None = None,
        *,
        embed: bool = True,
        release: bool = False,
    ) -> MaskPrediction:
        """Predictions of all layers.

        Args:
            features: [B, channels, height, width] by name.
            padding: takes part in no attention; None: all is image.
            embed: False leaves out :meth:`last_convolution`, if there is one: instead of the
                embeddings, the prediction then has what that takes, [B, C, h, w].
            release: takes features out of the dict when they have been used, if the pixel decoder
                can: less memory, if nobody else holds them and no gradient needs them.
        """
        seen = {k: v for k, v in features.items() if k == self.transformer_in_feature}
        options = {} if embed or self.last_convolution() is None else {"embed": False}
        if release and isinstance(self.pixel_decoder, BasePixelDecoder):
            options["release"] = True
        pixel_embed, encoded = self.pixel_decoder.forward_features(
            features, *_told(self.pixel_decoder, padding), **options
        )
        feature = self.transformer_feature(self.transformer_in_feature, seen, encoded)
        return self.predictor(feature, pixel_embed, *_told(self.predictor, padding))

    def last_convolution(self) -> Convolution | None:
        """The last, linear step of the pixel decoder, to the embeddings, if it is one of ours."""
        # Another mask decoder may look at the embeddings.
        known = isinstance(self.predictor, TransformerMaskDecoder)
        if not known or not isinstance(self.pixel_decoder, BasePixelDecoder):
            return None
        last = self.pixel_decoder.mask_features
        assert last.bias is not None
        return Convolution(last.weight, last.bias)


def _told(part: nn.Module, padding: Padding | None) -> tuple[Padding, ...]:
    """The last argument of a part, where there is padding and it can take it."""
    if padding is None or not getattr(part, "takes_padding", False):
        return ()
    return (padding,)
