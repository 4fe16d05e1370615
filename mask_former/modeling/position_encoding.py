"""Fixed sine encoding of positions, as in DETR (Carion et al. 2020, appendix A.4)."""

import math

import torch
from torch import Tensor


def sine_position_encoding(
    height: int, width: int, channels: int, device: torch.device | None = None
) -> Tensor:
    """Encoding of every cell of a map.

    Rows and columns count from 1 and are scaled to (0, 2 pi]. The first half of the channels
    encodes rows, the second half columns; sine and cosine take turns.

    Args:
        height: h.
        width: w.
        channels: C; even.
        device: of the result.

    Returns:
        [C, h, w]; float32, whatever the model's type, in [-1, 1].
    """
    if channels % 2:
        raise ValueError(f"channels must be even, one half for each axis, got {channels}")
    rows = _encode_axis(height, channels // 2, device)[:, :, None].expand(-1, -1, width)
    columns = _encode_axis(width, channels // 2, device)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])


def _encode_axis(length: int, channels: int, device: torch.device | None) -> Tensor:
    """[channels, length]"""
    positions = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    positions = positions / (length + 1e-6) * (2 * math.pi)
    channel = torch.arange(channels, dtype=torch.float32, device=device)
    period = 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / channels)
    angles = positions / period[:, None]
    even = (torch.arange(channels, device=device) % 2 == 0)[:, None]
    return torch.where(even, angles.sin(), angles.cos())
