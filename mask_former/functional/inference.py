"""From class and mask predictions to semantic, panoptic and instance results (paper, section 3.4).

General inference gives each pixel to one query, after unsure and occluded queries are dropped;
semantic inference marginalises over all queries instead.
"""

from collections.abc import Collection
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor


class Segment(TypedDict):
    """One entry of ``segments_info``: Detectron2's three keys, score and area."""

    id: int
    isthing: bool
    category_id: int
    score: float
    area: int


def semantic_inference(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Marginalises over the queries: class probability times mask probability, summed.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        mask_logits: [Q, h, w]; before the sigmoid.

    Returns:
        Scores [K, h, w]; at least 0, not normalised: sums above 1 occur. The label of a pixel is
        the class of the highest score.
    """
    class_probs = class_logits.softmax(dim=-1)[:, :-1]
    return torch.einsum("qk,qhw->khw", class_probs, mask_logits.sigmoid())


def general_semantic_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> Tensor:
    """Semantic scores of the queries that general inference keeps.

    Arguments as :func:`panoptic_inference`.

    Returns:
        Scores [K, h, w] in [0, 1]: for each class the highest class probability times mask
        probability of its queries; 0 where it has none.
    """
    labels, scores, mask_probs, _, _, valid = _compete(
        class_logits, mask_logits, object_mask_threshold, overlap_threshold
    )
    num_classes = class_logits.shape[-1] - 1
    result = mask_logits.new_zeros(num_classes, *mask_logits.shape[-2:])
    weighted = scores[valid][:, None, None] * mask_probs[valid]
    index = labels[valid][:, None, None].expand_as(weighted)
    return result.scatter_reduce(0, index, weighted, reduce="amax")


def panoptic_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    thing_ids: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[Segment]]:
    """Gives each pixel to the query of highest class probability times mask probability.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        mask_logits: [Q, h, w]; before the sigmoid.
        thing_ids: classes whose segments stay separate; segments of any other class are merged.
        object_mask_threshold: in [0, 1]; a query takes part if its class probability is higher.
        overlap_threshold: in [0, 1]; a query is dropped, and its pixels stay void, if a smaller
            part of its mask (probability at least 0.5) than this is left to it.

    Returns:
        Segment ids [h, w] (int32; 0 is void) and the segments, in order of their ids from 1. A
        merged segment has the area of all its parts and the highest of their scores.
    """
    competition = _compete(class_logits, mask_logits, object_mask_threshold, overlap_threshold)
    labels, scores, _, owner, area, valid = competition
    if len(labels) == 0:
        return mask_logits.new_zeros(mask_logits.shape[-2:], dtype=torch.int32), []
    table = torch.stack([labels.double(), scores.double(), area.double(), valid.double()], dim=1)
    segment_of_query, segments = _merge(table.tolist(), set(thing_ids))
    return torch.tensor(segment_of_query, dtype=torch.int32, device=owner.device)[owner], segments


class _Competition(NamedTuple):
    """The n queries that are sure of a class, and what is left to each of them."""

    labels: Tensor
    """[n]; 0..K-1."""
    scores: Tensor
    """[n]; class probability."""
    mask_probs: Tensor
    """[n, h, w]"""
    owner: Tensor
    """[h, w]; which of the n has the pixel."""
    area: Tensor
    """[n]; pixels owned."""
    valid: Tensor
    """[n]; bool, whether enough of the mask is left."""


def _compete(
    class_logits: Tensor,
    mask_logits: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> _Competition:
    """General inference up to the choice of queries; arguments as :func:`panoptic_inference`."""
    scores, labels = class_logits.softmax(dim=-1).max(dim=-1)
    no_object = class_logits.shape[-1] - 1
    keep = (labels != no_object) & (scores > object_mask_threshold)
    scores, labels, mask_probs = scores[keep], labels[keep], mask_logits[keep].sigmoid()
    if len(labels) == 0:
        nobody = torch.zeros_like(mask_logits[0], dtype=torch.int64)
        return _Competition(labels, scores, mask_probs, nobody, labels, labels.bool())
    owner = (scores[:, None, None] * mask_probs).argmax(dim=0)
    area = torch.bincount(owner.flatten(), minlength=len(labels))
    original_area = (mask_probs >= 0.5).flatten(1).sum(dim=1)
    # The ratio is taken as the original takes it, in double precision.
    enough = area.double() / original_area.double() >= overlap_threshold
    valid = (area > 0) & (original_area > 0) & enough
    return _Competition(labels, scores, mask_probs, owner, area, valid)


def _merge(
    queries: list[list[float]], thing_ids: Collection[int]
) -> tuple[list[int], list[Segment]]:
    """Numbers the segments; queries: (label, score, area, valid) of each kept query."""
    segments: list[Segment] = []
    stuff: dict[int, Segment] = {}
    segment_of_query = []
    for label_value, score, area, valid in queries:
        label = int(label_value)
        if not valid:
            segment_of_query.append(0)
            continue
        if label in stuff:
            segment = stuff[label]
            segment["area"] += int(area)
            segment["score"] = max(segment["score"], score)
        else:
            segment = Segment(
                id=len(segments) + 1,
                isthing=label in thing_ids,
                category_id=label,
                score=score,
                area=int(area),
            )
            segments.append(segment)
            if not segment["isthing"]:
                stuff[label] = segment
        segment_of_query.append(segment["id"])
    return segment_of_query, segments


class InstanceResult(NamedTuple):
    """The n instances of one image, best first."""

    labels: Tensor
    """[n]; 0..K-1."""
    scores: Tensor
    """[n]; in [0, 1]."""
    masks: Tensor
    """[n, h, w]; bool, none of them empty."""
    boxes: Tensor
    """[n, 4]; x0, y0, x1, y1 in pixels, the tightest around the mask: its last column is x1 - 1."""


def instance_inference(
    class_logits: Tensor, mask_logits: Tensor, thing_ids: Collection[int], max_instances: int
) -> InstanceResult:
    """Takes the likeliest (query, class) pairs, each with the query's binary mask.

    A score is the class probability times the mean mask probability inside the mask (probability
    above 0.5). Pairs whose mask is empty are dropped.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        mask_logits: [Q, h, w]; before the sigmoid.
        thing_ids: the classes that have instances.
        max_instances: how many pairs to take, by class probability.
    """
    things = torch.tensor(sorted(thing_ids), dtype=torch.int64, device=class_logits.device)
    class_probs = class_logits.softmax(dim=-1)[:, things]  # [Q, T]
    probs, pair = class_probs.flatten().topk(min(max_instances, class_probs.numel()))
    num_things = max(len(things), 1)
    query, labels = pair // num_things, things[pair % num_things]
    # Several pairs may share a query, whose mask is scored once.
    queries, mask_of_pair = query.unique(return_inverse=True)
    logits = mask_logits[queries]
    masks = logits > 0
    area = masks.flatten(1).sum(dim=1)
    quality = (logits.sigmoid() * masks).flatten(1).sum(dim=1) / area.clamp(min=1)
    scores = probs * quality[mask_of_pair]
    order = scores.argsort(descending=True, stable=True)
    order = order[area[mask_of_pair[order]] > 0]
    chosen = mask_of_pair[order]
    return InstanceResult(labels[order], scores[order], masks[chosen], mask_boxes(masks)[chosen])


def mask_boxes(masks: Tensor) -> Tensor:
    """The tightest boxes [n, 4] (x0, y0, x1, y1; float32) of bool masks [n, h, w].

    The box of an empty mask is all zero.
    """
    (x0, x1), (y0, y1) = _extent(masks.any(dim=1)), _extent(masks.any(dim=2))
    return torch.stack([x0, y0, x1, y1], dim=1).to(torch.float32)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and last index + 1 of the True entries of each row of [n, length]."""
    index = torch.arange(1, occupied.shape[1] + 1, device=occupied.device)
    end = (occupied * index).amax(dim=1)
    start = (occupied * index.flip(0)).amax(dim=1)
    return torch.where(start > 0, occupied.shape[1] - start, start), end
