"""Bilinear resizing a few rows at a time.

As ``interpolate(mode="bilinear", align_corners=False)`` of whole maps followed by a crop: rows of
the result need few rows of the source.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""Height and width."""

Rows = Callable[[int, int], Tensor]
"""(start, stop) to these rows of maps, [n, stop - start, width]; the caller may overwrite them."""


class Resize(NamedTuple):
    """Maps are resized, bilinearly, and cut."""

    source: Size
    """Before."""
    whole: Size
    """After resizing."""
    kept: Size
    """The part at the top left that is kept of that."""

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """(first, last) rows of the source that some rows need."""
        if self.source[0] == self.whole[0]:
            return start, stop
        scale = self.source[0] / self.whole[0]
        # The margin is for positions whose last digits interpolate, and so we, round otherwise.
        first = max(int((start + 0.5) * scale - 0.51), 0)
        return first, min(int((stop - 0.5) * scale - 0.49) + 2, self.source[0])

    def rows(self, source: Rows, start: int, stop: int) -> Tensor:
        """Rows [n, stop - start, kept width], from the few rows of the source that they need."""
        if self.source[0] == self.whole[0]:
            return self._columns(source(start, stop))
        first, last = self.needed(start, stop)
        maps = source(first, last)
        weights = self._row_weights(start, stop, maps).expand(len(maps), -1, -1)
        if stop - start <= 2 * (last - first):  # so few that to widen them last takes less memory
            return self._columns(torch.bmm(weights, maps))
        return torch.bmm(weights, self._columns(maps))

    def _row_weights(self, start: int, stop: int, like: Tensor) -> Tensor:
        """[stop - start, last - first]; how much each row of the source counts."""
        first, last = self.needed(start, stop)
        position = _positions(self.source[0], self.whole[0], like.dtype, like.device)[start:stop]
        cells = torch.arange(first, last, dtype=like.dtype, device=like.device)
        return (position[:, None] - cells).abs_().neg_().add_(1).relu_()

    def _columns(self, maps: Tensor) -> Tensor:
        if self.source[1] != self.whole[1]:
            maps = _widen(maps, self.whole[1])
        return maps[..., : self.kept[1]]


# Kept, because each of many bands asks for a few of them.
@lru_cache(maxsize=16)
def _positions(source: int, whole: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[whole]; where each row of the result lies among the rows of the source."""
    with torch.inference_mode(False):  # so that it serves in any mode
        rows = torch.arange(whole, dtype=dtype, device=device)
        return rows.add_(0.5).mul_(source / whole).sub_(0.5).clamp_(0, source - 1)


def _widen(maps: Tensor, width: int) -> Tensor:
    n, height, _ = maps.shape
    if maps.is_cpu:  # twice as fast there as the other, whose kernel suits a GPU better
        wide = F.interpolate(maps.flatten(0, 1)[None], size=width, mode="linear")
        return wide.view(n, height, width)
    return F.interpolate(maps[None], size=(height, width), mode="bilinear")[0]
