"""The windows of Swin (Liu et al. 2021): a map cut into squares, and which of their cells may meet.

Maps are [B, H, W, C], channels last; N = window * window cells in each of n windows an image.
"""

from functools import lru_cache

import torch
from torch import Tensor


def relative_position_index(window: int) -> Tensor:
    """Row [N, N] of the bias table for each pair of cells, by the offset between the two."""
    cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # [N, 2]
    offsets = cells[:, None] - cells[None, :] + window - 1  # [N, N, 2], from 0
    return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]


def split_windows(x: Tensor, window: int) -> Tensor:
    """[B, H, W, C] to [B, n, N, C], windows in row-major order; sides are multiples of a window."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(batch, -1, window * window, channels)


def join_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`split_windows`; ``size`` is (H, W)."""
    height, width = size
    x = x.view(len(x), height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(len(x), height, width, -1)


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Pairs of cells of a window that only the cyclic shift has brought together.

    Args:
        height: of the map, before it is padded to whole windows.
        width: likewise.
        window: side of a window; the shift is half of it, rounded down.
        device: of the result.

    Returns:
        bool [n, N, N]
    """
    # The compiler cannot use what is kept, and would warn of it.
    make = _shift_mask if torch.compiler.is_compiling() else _kept_shift_mask
    return make(height, width, window, device)


def _shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    def regions(length: int) -> Tensor:
        position = torch.arange(-(-length // window) * window, device=device)
        padded = len(position)
        return (position >= padded - window).long() + (position >= padded - window // 2).long()

    # A mask made in inference mode could not serve in training.
    with torch.inference_mode(False):
        region = 3 * regions(height)[:, None] + regions(width)
        cells = split_windows(region[None, :, :, None], window)[0, :, :, 0]  # [n, N]
        return cells[:, :, None] != cells[:, None, :]


# Bounded, because images of many sizes come by; a stage needs one mask for all of its blocks.
_kept_shift_mask = lru_cache(maxsize=16)(_shift_mask)
