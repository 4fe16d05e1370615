"""From class and mask predictions to semantic and panoptic results (paper, section 3.4)."""

from collections.abc import Collection
from typing import TypedDict

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
    scores, labels = class_logits.softmax(dim=-1).max(dim=-1)
    no_object = class_logits.shape[-1] - 1
    keep = (labels != no_object) & (scores > object_mask_threshold)
    scores, labels = scores[keep], labels[keep]
    if len(scores) == 0:
        return mask_logits.new_zeros(mask_logits.shape[-2:], dtype=torch.int32), []

    mask_probs = mask_logits[keep].sigmoid()
    owner = (scores[:, None, None] * mask_probs).argmax(dim=0)  # [h, w]; index of a kept query
    area = torch.bincount(owner.flatten(), minlength=len(scores))
    original_area = (mask_probs >= 0.5).flatten(1).sum(dim=1)
    valid = (area > 0) & (original_area > 0)
    # The ratio is taken as the original takes it, in double precision.
    valid &= area.double() / original_area.double() >= overlap_threshold

    table = torch.stack([labels.double(), scores.double(), area.double(), valid.double()], dim=1)
    segment_of_query, segments = _merge(table.tolist(), set(thing_ids))
    return torch.tensor(segment_of_query, dtype=torch.int32, device=owner.device)[owner], segments


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
