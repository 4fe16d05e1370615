"""Image tokens: the cells of a map as a sequence, with DETR's sine encoding of their positions.

Carion et al. 2020, appendix A.4.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.padding import image_cells, padding_mask
from ..structures import Padding


def sine_position_encoding(
    height: int,
    width: int,
    channels: int,
    device: torch.device | None = None,
    padded: Tensor | None = None,
) -> Tensor:
    """Encoding of every cell of a map.

    Rows and columns count from 1 and are scaled to (0, 2 pi], in the image that is: its padding,
    right and bottom, lies beyond. The first half of the channels encodes rows, the second half
    columns; sine and cosine take turns.

    Args:
        height: h.
        width: w.
        channels: C; even.
        device: the device of the result.
        padded: [B, h, w], bool; the cells that are padding alone. None: none is.

    Returns:
        [C, h, w], or with ``padded`` [B, C, h, w]; float32, whatever the model's type, in [-1, 1].
    """
    lengths: tuple[float | Tensor, float | Tensor] = height, width
    if padded is not None:
        # The first column and the first row, which hold image in all images: [B, h] and [B, w].
        first, top = (~padded[:, :, 0]).sum(1), (~padded[:, 0]).sum(1)
        lengths = first.float()[:, None, None], top.float()[:, None, None]
    rows = _encode_axis(height, lengths[0], channels // 2, device)[..., None]
    columns = _encode_axis(width, lengths[1], channels // 2, device)[..., None, :]
    shape = (*rows.shape[:-2], height, width)
    return torch.cat([rows.expand(shape), columns.expand(shape)], dim=-3)


def check_even(channels: int) -> None:
    """Refuses a width that positions cannot be encoded in: half of it is for each axis."""
    if channels % 2:
        raise ValueError(f"channels must be even, one half for each axis, got {channels}")


def _encode_axis(
    length: int, valid: float | Tensor, channels: int, device: torch.device | None
) -> Tensor:
    """[channels, length], or [B, channels, length] where ``valid`` is [B, 1, 1]."""
    positions = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    positions = positions / (valid + 1e-6) * (2 * math.pi)
    channel = torch.arange(channels, dtype=torch.float32, device=device)
    period = 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / channels)
    angles = positions / period[:, None]
    even = (torch.arange(channels, device=device) % 2 == 0)[:, None]
    return torch.where(even, angles.sin(), angles.cos())


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
    channels, grid = x.shape[1], (x.shape[2], x.shape[3])
    tokens = x.flatten(2).transpose(1, 2)
    # Decided from host numbers: where nothing is padded, nothing is done.
    if padding is None or all(
        image_cells(size, padding.padded, grid) == grid for size in padding.sizes
    ):
        pos = sine_position_encoding(*grid, channels, x.device)[None]
        return ImageTokens(tokens, pos.flatten(2).transpose(1, 2).to(x.dtype), None)
    padded = padding_mask(padding, grid, x.device)
    pos = sine_position_encoding(*grid, channels, x.device, padded)
    # A weight of zero would not stop what overflows in the product of query and key.
    tokens = tokens.masked_fill(padded.flatten(1)[..., None], 0)
    return ImageTokens(tokens, pos.flatten(2).transpose(1, 2).to(x.dtype), padded.flatten(1))
