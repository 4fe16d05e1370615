"""Cells of a feature map that lie in the image, and those that are padding alone.

A cell counts as image if any of its pixels does. Padding is right and bottom, so that the cells of
an image are a rectangle.
"""

import torch
from torch import Tensor

from ..structures import Padding


def image_cells(
    size: tuple[int, int], padded: tuple[int, int], grid: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of a map of ``grid`` cells that hold a pixel of the image.

    Args:
        size: height and width of the image, in pixels.
        padded: (H, W) of the batch, at least ``size``.
        grid: rows and columns of cells of the map that covers the batch.
    """
    # Rounded up without numbers below 0: graphs of other runtimes divide those towards 0.
    rows, columns = (
        cells - (whole - pixels) * cells // whole
        for pixels, whole, cells in zip(size, padded, grid, strict=True)
    )
    return rows, columns


def crop_to_image(
    maps: Tensor, size: tuple[int, int], padded: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Without the cells that are padding alone; arguments as :func:`image_cells`.

    Args:
        maps: [..., h, w]
        size: height and width of the image, in pixels.
        padded: (H, W), what the maps cover.

    Returns:
        Maps [..., rows, columns], a view, and the height and width in pixels that they cover: at
        least ``size``, by less than a cell more.
    """
    height, width = maps.shape[-2:]
    rows, columns = image_cells(size, padded, (height, width))
    covered = (rows * padded[0] // height, columns * padded[1] // width)
    return maps[..., :rows, :columns], covered


def padding_mask(padding: Padding, grid: tuple[int, int], device: torch.device) -> Tensor:
    """The cells that are padding alone, bool [B, *grid]."""
    cells = [image_cells(size, padding.padded, grid) for size in padding.sizes]
    ends = torch.tensor(cells).to(device, non_blocking=True)[:, :, None]  # [B, 2, 1]
    rows = torch.arange(grid[0], device=device) >= ends[:, 0]
    columns = torch.arange(grid[1], device=device) >= ends[:, 1]
    return rows[:, :, None] | columns[:, None, :]
