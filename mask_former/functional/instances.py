"""Instances from class and mask predictions: the likeliest pairs of a query and a class."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from .lazy_masks import LazyMasks, as_lazy


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


@torch.no_grad()
def instance_inference(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    thing_ids: Collection[int],
    max_instances: int,
) -> InstanceResult:
    """Takes the likeliest (query, class) pairs, each with the query's binary mask.

    A score is the class probability times the mean mask probability inside the mask (probability
    above 0.5). Pairs whose mask is empty are dropped. Masks are formed a band of rows at a time.

    Args:
        class_logits: [Q, K+1]; before the softmax. On the host they need not be read.
        mask_logits: [Q, h, w]; before the sigmoid.
        thing_ids: the classes that have instances.
        max_instances: how many pairs to take, by class probability; negative: all.

    Raises:
        ValueError: a thing is none of the K classes.
    """
    num_classes = class_logits.shape[-1] - 1
    if any(not 0 <= label < num_classes for label in thing_ids):
        raise ValueError(
            f"thing_ids are {sorted(thing_ids)}, but the classes are 0 to {num_classes - 1}"
        )
    masks = as_lazy(mask_logits)
    device = masks.pixel_features.device
    things = torch.tensor(sorted(thing_ids), dtype=torch.int64)
    # Pairs are chosen and put in order on the host, so that their masks alone are formed.
    class_probs = class_logits.cpu().to(masks.dtype).softmax(dim=-1)[:, things]  # [Q, T]
    num_pairs = class_probs.numel() if max_instances < 0 else max_instances
    probs, pair = class_probs.flatten().topk(min(num_pairs, class_probs.numel()))
    query, thing = pair // max(len(things), 1), pair % max(len(things), 1)
    queries, mask_of_pair = query.unique(return_inverse=True)
    found = _binary_masks(masks.select(queries.to(device)))
    area, total = torch.stack([found.area.to(found.total.dtype), found.total]).cpu()[
        :, mask_of_pair
    ]
    scores = probs * total / area.clamp(min=1)
    order = scores.where(area > 0, -1).argsort(descending=True, stable=True)  # empty masks last
    order = order[: int((area > 0).sum())]
    chosen = mask_of_pair[order].to(device)
    x0, x1 = _extent(found.columns[chosen])
    y0, y1 = _extent(found.rows[chosen])
    boxes = torch.stack([x0, y0, x1, y1], dim=1).to(torch.float32)
    labels, scores = things[thing[order]].to(device), scores[order].to(device)
    return InstanceResult(labels, scores, found.binary[chosen], boxes)


class _BinaryMasks(NamedTuple):
    """Masks of m queries."""

    binary: Tensor
    """[m, h, w]; bool."""
    columns: Tensor
    """[m, w]; bool, which are occupied."""
    rows: Tensor
    """[m, h]; bool, which are occupied."""
    area: Tensor
    """[m]; pixels inside."""
    total: Tensor
    """[m]; the sum of the probabilities inside."""


def _binary_masks(masks: LazyMasks) -> _BinaryMasks:
    (height, width), m, like = masks.size, masks.number, masks.pixel_features
    found = _BinaryMasks(
        like.new_empty(m, height, width, dtype=torch.bool),
        like.new_zeros(m, width, dtype=torch.bool),
        like.new_zeros(m, height, dtype=torch.bool),
        like.new_zeros(m, dtype=torch.int64),
        like.new_zeros(m, dtype=masks.dtype),
    )
    for rows, logits in masks.in_bands(2 * m):
        inside = logits > 0
        found.binary[:, rows] = inside
        found.columns.logical_or_(inside.any(dim=1))
        found.rows[:, rows] = inside.any(dim=2)
        found.area.add_(inside.sum(dim=(1, 2)))
        found.total.add_(logits.sigmoid().mul_(inside).sum(dim=(1, 2)))
    return found


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and last index + 1 of the True entries of each row of [n, length]; 0 if none."""
    # Counted from 1 the last one is the end; counted from the other side, the first is furthest.
    index = torch.arange(1, occupied.shape[1] + 1, device=occupied.device)
    end = (occupied * index).amax(dim=1)
    start = (occupied * index.flip(0)).amax(dim=1)
    return torch.where(start > 0, occupied.shape[1] - start, start), end
