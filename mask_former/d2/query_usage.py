"""What the queries of a model are used for: classes, places, how often, and how many are needed.

A query learns by the matching alone what it answers for (paper, section 3.2); here that is counted
over many pictures.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..functional.lazy_masks import LazyMasks
from ..functional.panoptic import compete
from .errors import InputError
from .predictor import Predictor
from .visualization.inspection import inspectable, run_network

GRID = 24
"""Cells of a map of places, in both directions."""
_FULL = 0.9
"""The share of the queries that a picture may need before more are advised."""
_ENOUGH = 0.7
"""The share of the queries that has to be enough before fewer are advised."""


class Answers(NamedTuple):
    """The queries of a model in one picture."""

    labels: np.ndarray
    """[Q]; the likeliest class, K where that is "no object"."""
    took_part: np.ndarray
    """[Q]; bool, whether it was sure enough of a class to compete for pixels."""
    kept: np.ndarray
    """[Q]; bool, whether it became a segment, alone or with others."""
    places: np.ndarray
    """[Q, GRID, GRID]; mask probabilities over the picture."""
    segments: int | None = None
    """The true ones, if the data set tells them."""


class Usage(NamedTuple):
    """What Q queries did in P pictures."""

    classes: np.ndarray
    """[Q, K]; in how many pictures the class was the likeliest."""
    took_part: np.ndarray
    """[Q]; in how many pictures it competed for pixels."""
    kept: np.ndarray
    """[Q]; in how many pictures it became a segment."""
    places: np.ndarray
    """[Q, GRID, GRID]; mean mask probability where the query had an object, else 0."""
    at_once: np.ndarray
    """[P]; how many queries were kept in a picture."""
    segments: np.ndarray
    """The numbers of true segments of the pictures that have them."""

    @property
    def spoken(self) -> np.ndarray:
        """[Q]; in how many pictures the query had an object."""
        return self.classes.sum(axis=1)


def ask(predictor: Predictor, picture: np.ndarray, segments: int | None = None) -> Answers:
    """What each query of a model says to a picture.

    Args:
        predictor: of a model with queries.
        picture: [H, W, 3]; BGR, uint8.
        segments: the number of true ones, if it is known.

    Raises:
        InputError: the model has no queries.
    """
    model, sample = inspectable(predictor), predictor.sample(picture)
    class_logits, masks_of = run_network(model, sample)
    options = model.inference
    return answers(
        class_logits,
        masks_of((sample["height"], sample["width"])),
        masks_of((GRID, GRID)),
        (options.object_mask_threshold, options.overlap_threshold),
        segments,
    )


def answers(
    class_logits: Tensor,
    masks: Tensor | LazyMasks,
    on_grid: LazyMasks,
    thresholds: tuple[float, float],
    segments: int | None = None,
) -> Answers:
    """The same of predictions, of one picture.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        masks: [Q, h, w]; before the sigmoid.
        on_grid: the same, [Q, GRID, GRID]; formed.
        thresholds: those of general inference, of class probability and of overlap.
        segments: the number of true ones, if it is known.
    """
    contest = compete(class_logits, masks, *thresholds)
    took_part, kept = np.zeros((2, len(class_logits)), dtype=bool)
    took_part[contest.queries] = True
    kept[contest.queries[contest.kept]] = True
    places = on_grid.rows(0, GRID).sigmoid()
    return Answers(
        labels=class_logits.argmax(dim=-1).cpu().numpy(),
        took_part=took_part,
        kept=kept,
        places=places.cpu().numpy(),
        segments=segments,
    )


def count(all_answers: Iterable[Answers], num_classes: int) -> Usage:
    """Adds up the answers to many pictures.

    Raises:
        InputError: there is no picture.
    """
    rows: list[Answers] = []
    total: np.ndarray | float = 0.0
    for row in all_answers:
        total = total + row.places * (row.labels < num_classes)[:, None, None]
        rows.append(row._replace(places=np.empty(0)))  # maps of all pictures would take much room
    if not rows:
        raise InputError("there is no picture to ask the queries about; name others")
    labels = np.stack([row.labels for row in rows])  # [P, Q]
    classes = (labels[..., None] == np.arange(num_classes)).sum(axis=0)
    kept = np.stack([row.kept for row in rows])
    return Usage(
        classes=classes,
        took_part=np.stack([row.took_part for row in rows]).sum(axis=0),
        kept=kept.sum(axis=0),
        places=np.asarray(total) / np.maximum(classes.sum(axis=1), 1)[:, None, None],
        at_once=kept.sum(axis=1),
        segments=np.array([row.segments for row in rows if row.segments is not None], dtype=int),
    )


def advice(usage: Usage) -> str:
    """Whether more or fewer queries would do, with the numbers that say so."""
    queries, pictures = len(usage.kept), len(usage.at_once)
    most, idle = int(usage.at_once.max()), int((usage.kept == 0).sum())
    told = f"at most {most} of {queries} queries became segments in one of {pictures} pictures"
    if len(usage.segments):
        told += f", which have up to {usage.segments.max()} true segments"
    told += f"; {idle} queries never did"
    needed = max([most, *usage.segments.tolist()])
    key = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
    if needed > queries:
        return f"More are needed: {told}. Surplus segments cannot be learnt; raise {key}."
    if needed > _FULL * queries:
        return f"More may help: {told}. Crowded pictures use nearly all; try a larger {key}."
    enough = max(2 * needed, queries - idle)
    if enough <= _ENOUGH * queries:
        return f"Fewer would do: {told}. {key} {enough} would leave room for twice as many."
    return f"The number fits: {told}."


def order_by_use(usage: Usage) -> Sequence[int]:
    """The queries, most often kept first; of those alike the lower number."""
    keys = zip(-usage.kept, -usage.took_part, -usage.spoken, strict=True)
    return [q for _, q in sorted((key, q) for q, key in enumerate(keys))]
