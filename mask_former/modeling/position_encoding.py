"""Fixed sine encoding of positions, as in DETR (Carion et al. 2020, appendix A.4)."""

import math

import torch
from torch import Tensor


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
        device: of the result.
        padded: [B, h, w], bool; the cells that are padding alone. None: none is.

    Returns:
        [C, h, w], or with ``padded`` [B, C, h, w]; float32, whatever the model's type, in [-1, 1].
    """
    if channels % 2:
        raise ValueError(f"channels must be even, one half for each axis, got {channels}")
    lengths: tuple[float | Tensor, float | Tensor] = height, width
    if padded is not None:
        # Of the first column and of the first row, which hold image in all images.
        lengths = _count(~padded[:, :, 0]), _count(~padded[:, 0])
    rows = _encode_axis(height, lengths[0], channels // 2, device)[..., None]
    columns = _encode_axis(width, lengths[1], channels // 2, device)[..., None, :]
    shape = (*rows.shape[:-2], height, width)
    return torch.cat([rows.expand(shape), columns.expand(shape)], dim=-3)


def _count(cells: Tensor) -> Tensor:
    """[B, length] to float32 [B, 1, 1]."""
    return cells.sum(1, dtype=torch.float32)[:, None, None]


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
