"""The contest of general inference: which query owns a pixel, and what that leaves to each.

Queries that are sure of a class compete by class probability times mask probability (paper,
section 3.4); all stays on the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .banding import bands, leading
from .lazy_masks import LazyMasks, as_lazy


class Candidates(NamedTuple):
    """The queries that are sure of a class, in their order; then, on an accelerator, the others."""

    labels: Tensor
    """[n]; 0..K."""
    scores: Tensor
    """[n]; class probability, or -1 for others, who own nothing beside a candidate."""
    masks: LazyMasks
    """n of them."""


class Contest(NamedTuple):
    """What is left to each of n candidates."""

    owner: Tensor
    """[h, w]; int32, which of them has the pixel."""
    area: Tensor
    """[n]; pixels owned."""
    valid: Tensor
    """[n]; bool, whether enough of the mask is left."""


def find_candidates(
    class_logits: Tensor, mask_logits: Tensor | LazyMasks, threshold: float
) -> Candidates:
    """Those whose class probability is higher than a threshold.

    On an accelerator the others follow: to count the sure ones would be a transfer of its own.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        mask_logits: [Q, h, w]; before the sigmoid.
        threshold: in [0, 1].
    """
    masks = as_lazy(mask_logits)
    scores, labels = class_logits.to(masks.dtype).softmax(dim=-1).max(dim=-1)
    sure = (labels != class_logits.shape[-1] - 1) & (scores > threshold)
    scores = scores.where(sure, -1)
    queries = leading(sure, room=len(sure))
    return Candidates(labels[queries], scores[queries], masks.select(queries))


def compete(candidates: Candidates, overlap_threshold: float) -> Contest:
    """Who owns each pixel, and who keeps enough of its mask, at least this part."""
    scores, (height, width) = candidates.scores, candidates.masks.size
    # Most owners are found before there is the map that they are returned in, so that bands may
    # have its memory: fewer and larger ones. Bytes hold them so far; both maps together, which is
    # when they are copied, take less than 1.2 times the one returned.
    small = torch.uint8 if len(scores) <= torch.iinfo(torch.uint8).max else torch.int16
    early = height * 7 // (10 * small.itemsize)
    first = scores.new_empty((early, width), dtype=small)
    original_area = _fill_in(first, candidates, start_row=0, share=4)
    owner = scores.new_empty((height, width), dtype=torch.int32)
    owner[:early] = first
    del first
    original_area += _fill_in(owner[early:], candidates, start_row=early, share=1)
    area = _areas(owner, len(scores))
    # The ratio is taken as the original takes it, in double precision.
    enough = area.double() / original_area >= overlap_threshold
    return Contest(owner, area, (scores >= 0) & (area > 0) & (original_area > 0) & enough)


def _fill_in(owner: Tensor, candidates: Candidates, start_row: int, share: int) -> Tensor:
    """Fills in the owners of the rows from one on; returns how many pixels each mask has there.

    Args:
        owner: [rows, w]
        candidates: n of them.
        start_row: where in the image the first of these rows lies.
        share: of the bands, in tenths of the elements of the image.

    Returns:
        [n]; float64.
    """
    _, scores, masks = candidates
    original_area = torch.zeros_like(scores, dtype=torch.float64)
    rank = torch.arange(len(scores), 0, -1, dtype=scores.dtype, device=scores.device)
    weights = scores[:, None, None], rank[:, None, None]
    rows = start_row, start_row + len(owner)
    # A band holds the masks one and a half times, and a few maps; together about twice as much.
    for start, stop, formed in masks.in_bands(masks.number * 3 // 4 + 5, share, rows):
        band = owner[start - start_row : stop - start_row]
        original_area += _win(formed.rows(start, stop), *weights, band)
    return original_area


def _win(logits: Tensor, scores: Tensor, rank: Tensor, owner: Tensor) -> Tensor:
    """Fills in the owners of some rows; returns how many pixels each mask has there, [n].

    In place of ``max(dim=0)``, whose indices take a CPU ten times as long as its values: of those
    that are the highest, the first, which has the highest rank: n, n - 1, …, 1. ``scores`` and
    ``rank`` are [n, 1, 1].
    """
    probs = logits.sigmoid_()
    inside = torch.cat([_num_likely(some) for some in probs.chunk(2)])  # for less memory
    probs.mul_(scores)
    torch.eq(probs, probs.amax(dim=0), out=probs)
    owner.copy_(probs.mul_(rank).amax(dim=0).neg_().add_(len(rank)))
    return inside


def _num_likely(probs: Tensor) -> Tensor:
    """[n]; pixels of a probability of at least 0.5. Sums of bool would be taken of int64."""
    return torch.ge(probs, 0.5, out=torch.empty_like(probs)).sum(dim=(1, 2))


def _areas(owner: Tensor, n: int) -> Tensor:
    """[n]; how many pixels each owns. One that nobody has, where all is NaN, goes to the last."""
    area = torch.zeros(n, dtype=torch.int64, device=owner.device)
    one = area.new_ones(())
    height, width = owner.shape
    for start, stop in bands((height, width), 3, 1, owner.device):
        index = owner[start:stop].clamp_(max=n - 1).long()
        # Not bincount, which reads from the device. A row each, so that few threads collide.
        counts = index.new_zeros(len(index), n)
        area += counts.scatter_add_(1, index, one.expand_as(index)).sum(dim=0)
    return area
