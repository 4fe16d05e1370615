"""Image tokens: the cells of a feature map as a sequence, with positions, and which are padding."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.padding import image_cells, padding_mask
from ..structures import Padding
from .position_encoding import sine_position_encoding


class ImageTokens(NamedTuple):
    """A feature map as a sequence, row by row."""

    x: Tensor
    """[B, S, C]; zero in padding."""
    pos: Tensor
    """Position encoding, [1, S, C] or, where an image is padded, [B, S, C]."""
    padded: Tensor | None
    """[B, S], bool; the tokens that are padding alone. None: none is."""


def image_tokens(x: Tensor, padding: Padding | None = None) -> ImageTokens:
    """The cells of a map [B, C, height, width] that covers the batch."""
    padded = _padded_cells(x, padding)
    tokens, pos = as_tokens(x), position_tokens(x, padded)
    if padded is None:
        return ImageTokens(tokens, pos, None)
    padded = padded.flatten(1)  # [B, S]
    # A weight of zero would not stop what overflows in the product of query and key.
    return ImageTokens(tokens.masked_fill(padded[..., None], 0), pos, padded)


def _padded_cells(x: Tensor, padding: Padding | None) -> Tensor | None:
    """[B, height, width], bool; None, without a look at the device, where no cell is padding."""
    if padding is None:
        return None
    grid = x.shape[2], x.shape[3]
    if all(image_cells(size, padding.padded, grid) == grid for size in padding.sizes):
        return None
    return padding_mask(padding, grid, x.device)


def as_tokens(x: Tensor) -> Tensor:
    """[B, C, height, width] to [B, S, C]."""
    return torch.flatten(x, 2).transpose(1, 2)


def position_tokens(x: Tensor, padded: Tensor | None = None) -> Tensor:
    """Position encoding of the cells of a map [B, C, height, width], of its type.

    Args:
        x: the map.
        padded: [B, height, width], bool; the cells that are padding alone. None: none is.

    Returns:
        [1, S, C], or with ``padded`` [B, S, C].
    """
    channels, height, width = x.shape[1:]
    pos = sine_position_encoding(height, width, channels, x.device, padded)
    return as_tokens(pos if padded is not None else pos[None]).to(x.dtype)
