"""What is done at once on a device: bands of rows, and queries of a number that only it knows."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .resampling import Size

CACHED = 2**21
"""Elements of a band on a CPU, so that it stays in the cache."""
SMALLEST = 2**15
"""Below, what takes the time is calling operators; a band of 128 KiB hurts nobody."""
LAUNCHED = 2**24
"""Elements of a band on an accelerator, so that launching kernels is not what takes the time."""


def bands(
    size: Size,
    channels: int,
    result_channels: int,
    device: torch.device,
    rows: tuple[int, int] | None = None,
) -> Iterator[tuple[int, int]]:
    """(start, stop) of bands of rows that are to be formed one after another.

    Args:
        size: of the result.
        channels: of the maps that a band goes through.
        result_channels: of the result; on a CPU a band has up to a tenth of its elements, or more
            if that is few.
        device: of the maps.
        rows: (first, end) of those of the result that are wanted; None: all.
    """
    height, width = size
    elements = LAUNCHED
    if device.type == "cpu":
        elements = min(CACHED, max(SMALLEST, result_channels * height * width // 10))
    step = max(elements // max(channels * width, 1), 1)
    first, end = rows or (0, height)
    for start in range(first, end, step):
        yield start, min(start + step, end)


def leading(chosen: Tensor, room: int) -> Tensor:
    """Indices of the True entries [Q], in order, and at least one index.

    Exactly those where reading their number is free, else as many as there is room for: other
    entries follow the True ones.
    """
    if reading_is_free(chosen.device):
        room = max(int(chosen.sum()), 1)
    return (~chosen).byte().argsort(stable=True)[:room]


def reading_is_free(device: torch.device) -> bool:
    """Whether to read a number from the device costs nothing; elsewhere it waits for all work."""
    return device.type == "cpu"
