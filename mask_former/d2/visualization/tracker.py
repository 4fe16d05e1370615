"""Things that are known again in the next frame, by their masks."""

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle_tools
from scipy.optimize import linear_sum_assignment

RunLengths = dict[str, Any]
"""A mask in COCO's compressed form."""


class _Track(NamedTuple):
    """A thing that was seen in a frame."""

    category_id: int
    run_lengths: RunLengths
    number: int
    """Among the things of its class; it decides on the colour."""
    frame: int


class Tracker:
    """Numbers the things of each class, and knows them again in the next frames by their masks.

    Two things are the same if they are of one class and their masks overlap enough; among several
    the pairs with the largest sum of overlaps are taken.

    Args:
        overlap: intersection over union from which two masks may be the same thing; less than
            Detectron2's 0.5, since pairs are chosen together.
        patience: frames in which a thing may be missing; 8, as in Detectron2.
    """

    def __init__(self, overlap: float = 0.3, patience: int = 8) -> None:
        self.overlap = overlap
        self.patience = patience
        self._tracks: list[_Track] = []
        self._frame = 0

    def number(self, category_ids: Sequence[int], masks: Sequence[np.ndarray]) -> list[int]:
        """A number for each thing of the next frame: that of the same thing before, or a free one.

        Args:
            category_ids: n of them.
            masks: n times [H, W]; uint8.
        """
        self._frame += 1
        run_lengths = [encode(mask) for mask in masks]
        before = self._match(category_ids, run_lengths)
        missing = [t for i, t in enumerate(self._tracks) if i not in before.values()]
        missing = [t for t in missing if self._frame - t.frame <= self.patience]
        known = [*missing, *(self._tracks[i] for i in before.values())]
        taken = {(track.category_id, track.number) for track in known}
        seen = []
        for i, (category, mask) in enumerate(zip(category_ids, run_lengths, strict=True)):
            if i in before:
                number = self._tracks[before[i]].number
            else:
                number = next(n for n in count() if (category, n) not in taken)
            taken.add((category, number))
            seen.append(_Track(category, mask, number, self._frame))
        self._tracks = [*seen, *missing]
        return [track.number for track in seen]

    def _match(self, categories: Sequence[int], masks: Sequence[RunLengths]) -> dict[int, int]:
        """The index of the track of each new thing that has one."""
        if not self._tracks or not masks:
            return {}
        old = [track.run_lengths for track in self._tracks]
        overlaps = rle_tools.iou(list(masks), old, [0] * len(old))  # [new, old]
        same = np.equal.outer(categories, [track.category_id for track in self._tracks])
        overlaps = np.where(same & (overlaps >= self.overlap), overlaps, 0.0)
        pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
        return {int(new): int(old) for new, old in pairs if overlaps[new, old] > 0}


def encode(mask: np.ndarray) -> RunLengths:
    """COCO's run lengths of a mask [H, W] (uint8); their counts are bytes."""
    return rle_tools.encode(np.asfortranarray(mask))
