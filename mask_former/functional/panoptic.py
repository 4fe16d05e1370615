"""General inference: each pixel goes to one query (paper, section 3.4).

Queries that are sure of a class compete for the pixels by class probability times mask
probability; those that are occluded are dropped. Numbers are float32, or float64 if the input is.
Queries are chosen on the host, from their class logits, so that no mask of another is ever formed;
pixels are counted where the masks are. Nothing here keeps gradients.
"""

from collections.abc import Collection
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from .lazy_masks import LazyMasks, as_lazy


class Segment(TypedDict):
    """One entry of ``segments_info``: Detectron2's three keys, score and area."""

    id: int
    isthing: bool
    category_id: int
    score: float
    area: int


class Contest(NamedTuple):
    """The n queries that are sure of a class, and what is left to each."""

    labels: Tensor
    """[n]; 0..K-1; on the host, as the next three."""
    scores: Tensor
    """[n]; class probability."""
    area: Tensor
    """[n]; pixels owned."""
    kept: Tensor
    """[n]; bool, whether enough of the mask is left."""
    masks: LazyMasks
    """n of them, formed."""
    owner: Tensor
    """[h, w]; int32, which of the n has the pixel; 0 everywhere if n = 0."""
    queries: Tensor
    """[n]; their numbers, 0..Q-1, in rising order; on the host."""


@torch.no_grad()
def panoptic_inference(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    thing_ids: Collection[int],
    object_mask_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> tuple[Tensor, list[Segment]]:
    """Gives each pixel to the query of highest class probability times mask probability.

    The defaults of the thresholds are the paper's for COCO (appendix A).

    Args:
        class_logits: [Q, K+1]; before the softmax. On the host they need not be read.
        mask_logits: [Q, h, w]; before the sigmoid.
        thing_ids: classes whose segments stay separate; segments of any other class are merged.
        object_mask_threshold: in [0, 1]; a query takes part if its class probability is higher.
        overlap_threshold: in [0, 1]; a query is dropped, and its pixels stay void, if a smaller
            part of its mask (probability at least 0.5) than this is left to it.

    Returns:
        Segment ids [h, w] (int32; 0 is void) and the segments, in order of their ids from 1. A
        merged segment has the area of all its parts and the highest of their scores.

    Raises:
        ValueError: the logits are not those of one image.
    """
    contest = compete(class_logits, mask_logits, object_mask_threshold, overlap_threshold)
    return segments_of(contest, thing_ids)


def segments_of(contest: Contest, thing_ids: Collection[int]) -> tuple[Tensor, list[Segment]]:
    """What :func:`panoptic_inference` returns, of a contest that has been held."""
    segments: list[Segment] = []
    stuff: dict[int, Segment] = {}
    segment_of_query = [0] * len(contest.labels)  # 0 for none
    rows = zip(*(column.tolist() for column in contest[:4]), strict=True)
    for query, (label, score, area, kept) in enumerate(rows):
        if not kept:
            continue
        if label in stuff:
            segment = stuff[label]
            segment["area"] += area
            segment["score"] = max(segment["score"], score)
        else:
            segment = Segment(
                id=len(segments) + 1,
                isthing=label in thing_ids,
                category_id=label,
                score=score,
                area=area,
            )
            segments.append(segment)
            if not segment["isthing"]:
                stuff[label] = segment
        segment_of_query[query] = segment["id"]
    ids = torch.tensor(segment_of_query or [0], dtype=torch.int32).to(contest.owner.device)
    return ids[contest.owner.flatten()].view_as(contest.owner), segments


@torch.no_grad()
def compete(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> Contest:
    """Who owns each pixel, and who keeps enough of its mask.

    Arguments and errors are those of :func:`panoptic_inference`.
    """
    if class_logits.dim() != 2 or (isinstance(mask_logits, Tensor) and mask_logits.dim() != 3):
        raise ValueError(
            "general inference takes one image: class logits [Q, K+1] and mask logits [Q, h, w], "
            f"got {list(class_logits.shape)} and {list(getattr(mask_logits, 'shape', ()))}; call "
            "it for each image of a batch"
        )
    masks = as_lazy(mask_logits)
    scores, labels = class_logits.cpu().to(masks.dtype).softmax(dim=-1).max(dim=-1)
    sure = (labels != class_logits.shape[-1] - 1) & (scores > object_mask_threshold)
    queries = sure.nonzero().flatten()
    scores, labels = scores[queries], labels[queries]
    device = masks.pixel_features.device
    masks = masks.select(queries.to(device)).formed()
    owner = torch.zeros(masks.size, dtype=torch.int32, device=device)
    areas = torch.zeros(2, len(scores), dtype=torch.int64, device=device)  # of the masks, and owned
    if len(scores):
        weights = scores.to(device)
        rank = torch.arange(len(scores), 0, -1, dtype=scores.dtype, device=device)
        for rows, logits in masks.in_bands(2 * len(scores)):
            winner, inside = _win(logits, weights, rank)
            owner[rows] = winner
            areas[0] += inside
            index = winner.flatten().long()
            # Not bincount, which reads from a device.
            areas[1].scatter_add_(0, index, index.new_ones(()).expand_as(index))
    original_area, area = areas.cpu()
    # The original takes the ratio in double precision, which the host has, but not every device.
    enough = area.double() / original_area >= overlap_threshold
    kept = enough & (area > 0) & (original_area > 0)
    return Contest(labels, scores, area, kept, masks, owner, queries)


def _win(logits: Tensor, scores: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """The owner of each pixel of some rows, and how many pixels each mask has there.

    ``max(dim=0)`` is slow on a CPU. Ties go to the lowest index: that of the highest rank, which
    is n for the first of n queries and 1 for the last.

    Args:
        logits: [n, rows, w]
        scores: [n]
        rank: [n]

    Returns:
        [rows, w], int32, and [n].
    """
    probs = logits.sigmoid()
    inside = (probs >= 0.5).sum(dim=(1, 2))
    probs *= scores[:, None, None]
    best = torch.eq(probs, probs.amax(dim=0), out=probs).mul_(rank[:, None, None]).amax(dim=0)
    # Where all is NaN nobody has a rank; such a pixel goes to the last.
    return (len(rank) - best).clamp_(max=len(rank) - 1).int(), inside
