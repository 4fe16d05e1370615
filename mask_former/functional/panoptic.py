"""Segments from class and mask predictions: each pixel goes to one query (paper, section 3.4).

Queries that are unsure of their class or occluded are dropped. Numbers are float32, or float64 if
the input is. Nothing here keeps gradients.
"""

from collections.abc import Collection, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from .banding import bands
from .competition import compete, find_candidates
from .lazy_masks import LazyMasks
from .transfer import Pending, read_once


class Segment(TypedDict):
    """One entry of ``segments_info``: Detectron2's three keys, score and area."""

    id: int
    isthing: bool
    category_id: int
    score: float
    area: int


def panoptic_inference(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
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
    thresholds = object_mask_threshold, overlap_threshold
    (result,) = read_once(pending_panoptic(class_logits, mask_logits, thing_ids, *thresholds))
    return result


@torch.no_grad()
def pending_panoptic(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    thing_ids: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> Pending:
    """:func:`panoptic_inference` up to the numbers that the host needs."""
    candidates = find_candidates(class_logits, mask_logits, object_mask_threshold)
    contest = compete(candidates, overlap_threshold)
    columns = (candidates.labels, candidates.scores, contest.area, contest.valid)
    table = torch.stack([column.double() for column in columns], dim=1)

    def finish(queries: list[list[float]]) -> tuple[Tensor, list[Segment]]:
        segment_of_query, segments = _merge(queries, set(thing_ids))
        return _lookup(contest.owner, segment_of_query), segments

    return Pending(table, finish)


def _lookup(owner: Tensor, segment_of_query: Sequence[int]) -> Tensor:
    """Segment ids in place of candidates [h, w]."""
    table = torch.tensor(segment_of_query, dtype=torch.int32).to(owner.device, non_blocking=True)
    height, width = owner.shape
    for start, stop in bands((height, width), 1, 1, owner.device):
        owner[start:stop] = table.index_select(0, owner[start:stop].flatten()).view(-1, width)
    return owner


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
