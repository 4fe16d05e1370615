"""Inference of section 3.4 in shapes that depend on no values, for graphs that leave PyTorch.

The formulas are those of ``semantic``, ``panoptic`` and ``instances``, with the same results. There
masks of queries that take no part are never formed, and rows come in bands; here every query has a
place and whole maps are formed, for a batch of images of one size.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor


class SegmentTable(NamedTuple):
    """Segments of B images, with a row for each that there could be."""

    pixels: Tensor
    """Panoptic: segment ids [B, H, W], int32, row + 1 of the segment, 0 is void. Instances: masks
    [B, n, H, W], bool."""
    classes: Tensor
    """[B, n]; int32, 0..K-1; -1 where there is no segment. Those that are there come first."""
    scores: Tensor
    """[B, n]; 0 where there is no segment."""
    areas: Tensor
    """[B, n]; int32, pixels; 0 where there is no segment."""


class _Contest(NamedTuple):
    labels: Tensor
    """[B, Q]; the likeliest of the K+1 classes."""
    scores: Tensor
    """[B, Q]; its probability."""
    owner: Tensor
    """[B, H, W]; which query has the pixel."""
    area: Tensor
    """[B, Q]; pixels owned."""
    kept: Tensor
    """[B, Q]; bool, whether the query is sure and enough of its mask is left."""


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Class probability times mask probability, summed over the queries: [B, K, H, W].

    Args:
        class_logits: [B, Q, K+1]; before the softmax.
        mask_logits: [B, Q, H, W]; before the sigmoid.
    """
    class_probs = class_logits.softmax(dim=-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", class_probs, mask_logits.sigmoid())


def general_semantic_scores(
    class_logits: Tensor,
    mask_logits: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> Tensor:
    """For each class the highest class times mask probability of the kept queries: [B, K, H, W].

    Arguments as :func:`panoptic_segments` has them.
    """
    contest = _compete(class_logits, mask_logits, object_mask_threshold, overlap_threshold)
    weighted = mask_logits.sigmoid() * (contest.scores * contest.kept)[..., None, None]
    none = torch.zeros_like(weighted[:, :1]).repeat(1, class_logits.shape[-1], 1, 1)
    index = contest.labels[..., None, None].expand_as(weighted)
    return none.scatter_reduce(1, index, weighted, reduce="amax")[:, :-1]


def panoptic_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    thing_ids: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> SegmentTable:
    """Gives each pixel to the query of highest class probability times mask probability.

    Args:
        class_logits: [B, Q, K+1]; before the softmax.
        mask_logits: [B, Q, H, W]; before the sigmoid.
        thing_ids: as :func:`~.panoptic.panoptic_inference` has them, like the next two.
        object_mask_threshold: in [0, 1].
        overlap_threshold: in [0, 1].

    Returns:
        A table of n = Q rows.
    """
    labels, scores, owner, area, kept = _compete(
        class_logits, mask_logits, object_mask_threshold, overlap_threshold
    )
    number = class_logits.shape[1]
    is_thing = torch.tensor([label in thing_ids for label in range(class_logits.shape[-1])])
    is_stuff = ~is_thing.to(labels.device)[labels]
    queries = torch.arange(number, device=labels.device)
    same_class = (labels[:, :, None] == labels[:, None, :]) & is_stuff[:, :, None]
    itself = queries[:, None] == queries
    # [B, Q, Q]: the queries whose pixels make one segment.
    joined = (same_class | itself) & kept[:, :, None] & kept[:, None, :]
    first = torch.where(joined, queries, number).amin(dim=2)  # of its segment; Q if it is dropped
    is_first = first == queries
    # A query that is dropped may gather any id, as it is not kept.
    number_of = is_first.int().cumsum(dim=1)
    ids = number_of.gather(1, first.clamp(max=number - 1)) * kept
    # [B, Q rows, Q]: the query that a row of the table is taken from.
    chosen = (ids[:, None, :] == queries[:, None] + 1) & is_first[:, None, :]
    present = chosen.any(dim=2)
    best = torch.where(joined, scores[:, None, :], 0).amax(dim=2)
    total = (joined * area[:, None, :]).sum(dim=2)
    return SegmentTable(
        ids.gather(1, owner.flatten(1)).view_as(owner).int(),
        torch.where(present, (chosen * labels[:, None, :]).sum(dim=2), -1).int(),
        (chosen * best[:, None, :]).sum(dim=2),
        (chosen * total[:, None, :]).sum(dim=2).int(),
    )


def instance_segments(
    class_logits: Tensor, mask_logits: Tensor, thing_ids: Collection[int], max_instances: int
) -> SegmentTable:
    """Takes the likeliest (query, class) pairs, each with the query's binary mask, best first.

    Args:
        class_logits: [B, Q, K+1]; before the softmax.
        mask_logits: [B, Q, H, W]; before the sigmoid.
        thing_ids: the classes that have instances; at least one.
        max_instances: how many pairs to take, by class probability; negative: all.

    Returns:
        A table of n = ``max_instances`` rows, or as many as there are pairs.
    """
    things = torch.tensor(sorted(thing_ids), dtype=torch.int64).to(class_logits.device)
    class_probs = class_logits.softmax(dim=-1)[..., things].flatten(1)  # [B, Q * T]
    pairs = class_probs.shape[1]
    number = pairs if max_instances < 0 else min(max_instances, pairs)
    probs, pair = class_probs.topk(number, dim=1)
    query, thing = pair // len(things), pair % len(things)
    binary = mask_logits > 0  # [B, Q, H, W]
    area = binary.sum(dim=(2, 3))
    total = (mask_logits.sigmoid() * binary).sum(dim=(2, 3))
    area_of_pair, mean = area.gather(1, query), (total / area.clamp(min=1)).gather(1, query)
    scores = torch.where(area_of_pair > 0, probs * mean, -1)  # empty masks come last
    scores, order = scores.topk(number, dim=1)
    areas = area_of_pair.gather(1, order)
    queries = query.gather(1, order)[..., None, None].expand(-1, -1, *binary.shape[2:])
    classes = torch.where(areas > 0, things[thing.gather(1, order)], -1)
    return SegmentTable(binary.gather(1, queries), classes.int(), scores.clamp(min=0), areas.int())


def _compete(
    class_logits: Tensor,
    mask_logits: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> _Contest:
    scores, labels = class_logits.softmax(dim=-1).max(dim=-1)
    sure = (labels != class_logits.shape[-1] - 1) & (scores > object_mask_threshold)
    probs = mask_logits.sigmoid()
    original_area = (probs >= 0.5).sum(dim=(2, 3))
    # Below all products, so that a query that is not sure wins only where none is.
    owner = torch.where(sure[..., None, None], scores[..., None, None] * probs, -1).argmax(dim=1)
    queries = torch.arange(class_logits.shape[1], device=owner.device)
    area = (owner[:, None] == queries[:, None, None]).sum(dim=(2, 3))
    # The ratio in double precision, as the original takes it; no mask gives NaN, which is not kept.
    enough = area.double() / original_area >= overlap_threshold
    return _Contest(labels, scores, owner, area, sure & enough & (area > 0) & (original_area > 0))
