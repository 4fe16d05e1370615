"""MaskFormer head: pixel decoder, then mask decoder (paper, figure 2)."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..structures import Convolution, MaskPrediction, Padding
from .layers import is_untouched, methods_of, plain_convolution
from .mask_decoder import TransformerMaskDecoder
from .pixel_decoder import BasePixelDecoder, TransformerEncoderPixelDecoder

_logger = logging.getLogger(__name__)

_OURS: dict[type[nn.Module], list[Any]] = {
    kind: methods_of(kind)
    for kind in (TransformerMaskDecoder, BasePixelDecoder, TransformerEncoderPixelDecoder)
}
"""The parts whose last convolution can be left to the prediction, and what they do."""


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
            name: name of a backbone feature, or "transformer_encoder".
            features: the backbone's features by name.
            encoded: the feature that the pixel decoder has encoded, if it has an encoder.
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

    Padding is told to those parts whose method has an argument named ``padding``; another
    project's parts need not know of it.
    """

    def __init__(
        self, *, pixel_decoder: nn.Module, mask_decoder: nn.Module, transformer_in_feature: str
    ) -> None:
        """Puts the parts together.

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
        self, features: Mapping[str, Tensor], padding: Padding | None = None
    ) -> MaskPrediction:
        """Predictions of all layers.

        In evaluation the last convolution to the embeddings may be left to the prediction, as its
        ``projection``: with fewer queries than channels, masks cost less without embeddings.

        Args:
            features: [B, channels, height, width] by name.
            padding: where the images end; padding takes part in no attention. None: all is image.
        """
        projection = None if self.training else self._projection()
        decode = self.pixel_decoder.forward_features
        if projection is not None:
            decode = self.pixel_decoder.decode
        pixel_features, encoded = decode(features, **_told(decode, padding))
        feature = self.transformer_feature(self.transformer_in_feature, features, encoded)
        told = _told(self.predictor.forward, padding)
        prediction = self.predictor(feature, pixel_features, **told)
        return prediction if projection is None else prediction._replace(projection=projection)

    def _projection(self) -> Convolution | None:
        """The last convolution of the pixel decoder, if nobody could see that it is left out."""
        for part in (self.pixel_decoder, self.predictor):
            if _OURS.get(type(part)) != methods_of(type(part)) or not is_untouched(part):
                return None
        return plain_convolution(self.pixel_decoder.mask_features)


def takes_padding(method: Callable[..., Any]) -> bool:
    """Whether a part wants to be told of padding: whether it has an argument of that name.

    So does whoever takes any keyword, as wrappers do that pass on what they get.
    """
    parameters = inspect.signature(method).parameters
    return "padding" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _told(method: Callable[..., Any], padding: Padding | None) -> dict[str, Padding]:
    return {} if padding is None or not takes_padding(method) else {"padding": padding}
