"""Instances from class and mask predictions: the likeliest pairs of a query and a class."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from .banding import bands, leading
from .lazy_masks import LazyMasks, as_lazy
from .transfer import Pending, read_once


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
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    thing_ids: Collection[int],
    max_instances: int,
) -> InstanceResult:
    """Takes the likeliest (query, class) pairs, each with the query's binary mask.

    A score is the class probability times the mean mask probability inside the mask (probability
    above 0.5). Pairs whose mask is empty are dropped. Masks are formed a band of rows at a time.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        mask_logits: [Q, h, w]; before the sigmoid.
        thing_ids: the classes that have instances.
        max_instances: how many pairs to take, by class probability.
    """
    (result,) = read_once(pending_instances(class_logits, mask_logits, thing_ids, max_instances))
    return result


@torch.no_grad()
def pending_instances(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    thing_ids: Collection[int],
    max_instances: int,
) -> Pending:
    """:func:`instance_inference` up to the number that the host needs, that of the instances."""
    masks = as_lazy(mask_logits)
    things = torch.tensor(sorted(thing_ids), dtype=torch.int64)
    things = things.to(class_logits.device, non_blocking=True)
    class_probs = class_logits.to(masks.dtype).softmax(dim=-1)[:, things]  # [Q, T]
    probs, pair = class_probs.flatten().topk(min(max_instances, class_probs.numel()))
    num_things = max(len(things), 1)
    query, labels = pair // num_things, things[pair % num_things]
    queries, mask_of_pair = _distinct(query, masks.number)
    found = _binary_masks(masks.select(queries), mask_of_pair)
    inside = found.area[mask_of_pair] > 0
    scores = probs * (found.total / found.area.clamp(min=1))[mask_of_pair]
    ranked = scores.where(inside, -1).argsort(descending=True, stable=True)  # empty masks last

    def finish(table: list[list[float]]) -> InstanceResult:
        order = ranked[: int(table[0][0])]
        boxes = _boxes(found.columns, found.rows)[mask_of_pair[order]]
        return InstanceResult(labels[order], scores[order], _reordered(found.binary, order), boxes)

    return Pending(inside.sum().double().view(1, 1), finish)


def _distinct(query: Tensor, num_queries: int) -> tuple[Tensor, Tensor]:
    """The distinct queries of pairs, and which of these each pair has.

    Others may follow, as :func:`leading` has it.
    """
    used = torch.zeros(num_queries, dtype=torch.bool, device=query.device)
    used = used.index_fill(0, query, True)
    queries = leading(used, min(len(query), num_queries))
    return queries, (used.cumsum(dim=0) - 1)[query]


class _BinaryMasks(NamedTuple):
    """m masks, and the n pairs that share them."""

    binary: Tensor
    """[n, h, w]; bool."""
    columns: Tensor
    """[m, w]; bool, which are occupied."""
    rows: Tensor
    """[m, h]; likewise."""
    area: Tensor
    """[m]; pixels inside."""
    total: Tensor
    """[m]; the sum of the probabilities inside."""


def _binary_masks(masks: LazyMasks, mask_of_pair: Tensor) -> _BinaryMasks:
    (height, width), m, n, like = masks.size, masks.number, len(mask_of_pair), mask_of_pair
    found = _BinaryMasks(
        like.new_empty(n, height, width, dtype=torch.bool),
        like.new_zeros(m, width, dtype=torch.bool),
        like.new_zeros(m, height, dtype=torch.bool),
        like.new_zeros(m),
        like.new_zeros(m, dtype=masks.dtype),
    )
    for start, stop, formed in masks.in_bands(m, n):
        _fill_in_band(found, formed.rows(start, stop), mask_of_pair, start)
    return found


def _fill_in_band(found: _BinaryMasks, logits: Tensor, mask_of_pair: Tensor, start: int) -> None:
    stop = start + logits.shape[1]
    inside = logits > 0
    found.binary[:, start:stop] = inside[mask_of_pair]
    found.columns.logical_or_(inside.any(dim=1))
    found.rows[:, start:stop] = inside.any(dim=2)
    found.area.add_(inside.sum(dim=(1, 2)))
    found.total.add_(logits.sigmoid_().mul_(inside).sum(dim=(1, 2)))


def _reordered(binary: Tensor, order: Tensor) -> Tensor:
    """binary[order], in place, a band of rows at a time."""
    chosen = binary[: len(order)]
    n, height, width = binary.shape
    for start, stop in bands((height, width), n, n, binary.device):
        chosen[:, start:stop] = binary[:, start:stop].index_select(0, order)
    return chosen


def _boxes(columns: Tensor, rows: Tensor) -> Tensor:
    """The tightest boxes [n, 4] (x0, y0, x1, y1; float32) of masks, by what they occupy.

    Args:
        columns: [n, w]; bool.
        rows: [n, h]; bool. Those of an empty mask are all False, and its box is all zero.
    """
    (x0, x1), (y0, y1) = _extent(columns), _extent(rows)
    return torch.stack([x0, y0, x1, y1], dim=1).to(torch.float32)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and last index + 1 of the True entries of each row of [n, length]."""
    index = torch.arange(1, occupied.shape[1] + 1, device=occupied.device)
    end = (occupied * index).amax(dim=1)
    start = (occupied * index.flip(0)).amax(dim=1)
    return torch.where(start > 0, occupied.shape[1] - start, start), end
