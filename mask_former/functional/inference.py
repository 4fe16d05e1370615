"""From class and mask predictions to semantic, panoptic and instance results (paper, section 3.4).

General inference gives each pixel to one query, after unsure and occluded queries are dropped;
semantic inference marginalises over all queries instead. Mask logits come as a tensor or as
:class:`~mask_former.functional.resampling.LazyMasks`; either way a result is formed a band of rows
at a time, from the queries that it needs. Numbers are float32, or float64 if the input is. Nothing
here keeps gradients.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from mask_former.functional.competition import Candidates, Contest, compete, find_candidates
from mask_former.functional.resampling import LazyMasks, Resize, Size, as_lazy, bands


class Segment(TypedDict):
    """One entry of ``segments_info``: Detectron2's three keys, score and area."""

    id: int
    isthing: bool
    category_id: int
    score: float
    area: int


@torch.no_grad()
def semantic_inference(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    output: Size | None = None,
    labels: bool = False,
) -> Tensor:
    """Marginalises over the queries: class probability times mask probability, summed.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        mask_logits: [Q, h, w]; before the sigmoid.
        output: (H, W) that the scores are resized to; None: they stay (h, w).
        labels: give the class of the highest score instead of the scores.

    Returns:
        Scores [K, H, W]; at least 0, not normalised: sums above 1 occur. Or labels [H, W] (int64).
    """
    masks = as_lazy(mask_logits).convolved()
    class_probs = class_logits.to(masks.dtype).softmax(dim=-1)[:, :-1]

    def write(start: int, stop: int, scores: Tensor) -> None:
        mask_probs = masks.rows(start, stop).sigmoid_()
        torch.mm(class_probs.T, mask_probs.flatten(1), out=scores.view(len(scores), -1))

    return _collect(write, class_probs.shape[1], masks, output, labels)


@torch.no_grad()
def general_semantic_inference(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    object_mask_threshold: float,
    overlap_threshold: float,
    output: Size | None = None,
    labels: bool = False,
) -> Tensor:
    """Semantic scores of the queries that general inference keeps.

    Arguments as :func:`panoptic_inference` and :func:`semantic_inference`.

    Returns:
        Scores [K, H, W] in [0, 1]: for each class the highest class probability times mask
        probability of its queries; 0 where it has none. Or labels [H, W] (int64).
    """
    num_classes = class_logits.shape[-1] - 1
    # Room for all, so that nothing need be read from an accelerator.
    candidates = find_candidates(
        class_logits, mask_logits, object_mask_threshold, len(class_logits)
    )
    contest = compete(candidates, overlap_threshold)
    weights = (candidates.scores * contest.valid)[:, None, None]
    index = candidates.labels.clamp(max=num_classes - 1)[:, None, None]

    def write(start: int, stop: int, scores: Tensor) -> None:
        weighted = candidates.masks.rows(start, stop).sigmoid_().mul_(weights)
        scores.zero_().scatter_reduce_(0, index.expand_as(weighted), weighted, reduce="amax")

    return _collect(write, num_classes, candidates.masks, output, labels)


def _collect(
    write: Callable[[int, int, Tensor], None],
    num_classes: int,
    masks: LazyMasks,
    output: Size | None,
    labels: bool,
) -> Tensor:
    """Semantic scores [K, H, W] of all rows, or labels [H, W].

    write puts the scores of the rows (start, stop) of the masks into [K, stop - start, w].
    """
    output, like = output or masks.size, masks.pixel_embed

    def rows(start: int, stop: int) -> Tensor:
        scores = like.new_empty(num_classes, stop - start, masks.size[1], dtype=masks.dtype)
        write(start, stop, scores)
        return scores

    resize = Resize(masks.size, output, output)
    channels = max(num_classes, masks.number)
    shares = bands(output, channels, num_classes, like.device)
    if labels:
        result = like.new_empty(output, dtype=torch.int64)
        for start, stop in shares:
            # Unlike argmax, max is vectorised over the last dimension on a CPU.
            result[start:stop] = resize.rows(rows, start, stop).max(dim=0).indices
        return result
    result = like.new_empty(num_classes, *output, dtype=masks.dtype)
    for start, stop in shares:
        if output == masks.size:
            write(start, stop, result[:, start:stop])
        else:
            result[:, start:stop] = resize.rows(rows, start, stop)
    return result


@torch.no_grad()
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
    for room in (USUAL_ROOM, len(class_logits)):
        candidates = find_candidates(class_logits, mask_logits, object_mask_threshold, room)
        contest = compete(candidates, overlap_threshold)
        *queries, (number, *_) = _table(candidates, contest).tolist()  # the one transfer
        if number <= len(queries):
            break
    segment_of_query, segments = _merge(queries, set(thing_ids))
    return _lookup(contest.owner, segment_of_query), segments


USUAL_ROOM = 32
"""Candidates that panoptic inference makes room for on an accelerator, where it does not know their
number before its one transfer. Should there be more, it starts over with room for all."""


def _table(candidates: Candidates, contest: Contest) -> Tensor:
    """(label, score, area, valid) of each candidate, and their number in a last row."""
    columns = (candidates.labels, candidates.scores, contest.area, contest.valid)
    table = torch.stack([column.double() for column in columns], dim=1)
    return torch.cat([table, candidates.number.double().expand(1, 4)])


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
