"""What became of each query in general inference, and why (paper, section 3.4).

A query that is sure of a class takes part in the contest for the pixels. One that keeps enough of
its mask gives a segment. The others are dropped, each for one reason.
"""

import math
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...functional.lazy_masks import LazyMasks, as_lazy
from ...functional.panoptic import Contest, Segment, compete, segments_of


class Reason(StrEnum):
    """Why a query gives a segment, or none."""

    KEPT = "kept"
    NO_OBJECT = "no object"
    """"No object" is likelier than each class."""
    UNSURE = "unsure"
    """Its class probability is not above the object-mask threshold."""
    EMPTY = "empty"
    """It is sure of a class, but no pixel of its mask has a probability of at least 0.5."""
    OCCLUDED = "occluded"
    """Others have won so much that less than the overlap threshold of its mask is left to it."""


class Thresholds(NamedTuple):
    """Those of :func:`~mask_former.functional.panoptic.panoptic_inference`."""

    object_mask: float
    overlap: float


class Query(NamedTuple):
    """One query after the contest."""

    number: int
    """0..Q-1."""
    label: int
    """0..K-1; the likeliest class, also where "no object" is likelier."""
    score: float
    """Probability of that class."""
    no_object: float
    """Probability of "no object"."""
    mask_area: int
    """Pixels whose mask probability is at least 0.5."""
    won_area: int
    """Pixels that it owns, outside its mask too; 0 for one that takes no part."""
    reason: Reason
    segment: int
    """The id of its segment, which others may share; 0: none."""
    rival: int | None
    """The query that owns the largest part of its mask, if that is another."""

    @property
    def share(self) -> float:
        """The won area relative to the mask, which the overlap threshold looks at."""
        return self.won_area / self.mask_area if self.mask_area else 0.0

    @property
    def takes_part(self) -> bool:
        """Whether it is sure enough of a class to compete for pixels."""
        return self.reason not in (Reason.NO_OBJECT, Reason.UNSURE)


class Explanation(NamedTuple):
    """The panoptic result of one picture and what each query had to do with it."""

    ids: Tensor
    """[h, w]; segment ids, int32; 0 is void."""
    segments: list[Segment]
    queries: list[Query]
    thresholds: Thresholds

    def of(self, *reasons: Reason) -> list[Query]:
        """The queries with one of these reasons."""
        return [query for query in self.queries if query.reason in reasons]


@torch.no_grad()
def explain_queries(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    thing_ids: Collection[int],
    thresholds: Thresholds,
) -> Explanation:
    """General inference that tells what became of each query.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        mask_logits: [Q, h, w]; before the sigmoid.
        thing_ids: classes whose segments stay separate.
        thresholds: in [0, 1].

    Returns:
        Ids and segments as ``panoptic_inference`` gives them, and all Q queries in their order.

    Raises:
        ValueError: the logits are not those of one image.
    """
    masks = as_lazy(mask_logits).formed()  # once, for all that follows
    contest = compete(class_logits, masks, *thresholds)
    ids, segments = segments_of(contest, thing_ids)
    probs = class_logits.to(masks.dtype).softmax(dim=-1)
    nothing = probs.argmax(dim=-1) == probs.shape[-1] - 1
    scores, labels = probs[:, :-1].max(dim=-1)
    columns = (labels, scores, probs[:, -1], _mask_areas(masks))
    # Of one that takes no part nothing but its mask is known.
    rows = enumerate(zip(*(column.tolist() for column in columns), strict=True))
    queries = [
        Query(number, label, score, no_object, area, 0, Reason.UNSURE, 0, None)
        for number, (label, score, no_object, area) in rows
    ]
    for number in nothing.nonzero().flatten().tolist():
        queries[number] = queries[number]._replace(reason=Reason.NO_OBJECT)
    for number, outcome in zip(contest.queries.tolist(), _outcomes(contest, ids), strict=True):
        queries[number] = queries[number]._replace(**outcome)
    return Explanation(ids, segments, queries, thresholds)


def _mask_areas(masks: LazyMasks) -> Tensor:
    """Pixels of probability at least 0.5, of n masks that are formed: [n], int64."""
    areas = torch.zeros(masks.number, dtype=torch.int64, device=masks.pixel_features.device)
    for _, logits in masks.in_bands(masks.number):
        areas += (logits.sigmoid() >= 0.5).sum(dim=(1, 2))
    return areas


def _outcomes(contest: Contest, ids: Tensor) -> list[dict[str, Any]]:
    """What the contest has made of each of the n that take part, by the fields of ``Query``."""
    players = contest.queries.tolist()
    number = len(players)
    owner = contest.owner.flatten().long()
    segment_of = ids.new_zeros(max(number, 1)).scatter_reduce_(0, owner, ids.flatten(), "amax")
    outcomes = []
    rows = zip(contest.area.tolist(), contest.kept.tolist(), _owners(contest), strict=True)
    for place, (won, kept, owners) in enumerate(rows):
        area = sum(owners)  # as each pixel has one owner, and counted where the contest counts
        most = max(range(number), key=owners.__getitem__)
        outcome = {
            "mask_area": area,
            "won_area": won,
            "reason": Reason.KEPT if kept else Reason.OCCLUDED if area else Reason.EMPTY,
            "segment": int(segment_of[place]) if kept else 0,
            "rival": players[most] if most != place and owners[most] else None,
        }
        outcomes.append(outcome)
    return outcomes


def _owners(contest: Contest) -> list[list[int]]:
    """How many pixels in the mask of each of the n that take part each of them owns: [n, n]."""
    number = len(contest.labels)
    counts = torch.zeros(number, number, dtype=torch.int64, device=contest.owner.device)
    if number:
        for rows, logits in contest.masks.in_bands(2 * number):
            inside = logits.sigmoid() >= 0.5
            owns = F.one_hot(contest.owner[rows].flatten().long(), number).to(logits.dtype)
            counts += (inside.flatten(1).to(logits.dtype) @ owns).long()  # exact below 2^24
    return counts.tolist()


def tell(query: Query, explanation: Explanation, names: Sequence[str]) -> str:
    """Why a query gives a segment or none, in sentences with its numbers.

    Args:
        query: one of the explanation's.
        explanation: of the picture.
        names: of the K classes.
    """
    name, score, (object_mask, overlap) = names[query.label], query.score, explanation.thresholds
    if query.reason is Reason.NO_OBJECT:
        return (
            f'"No object" is likeliest, {_part(query.no_object)}; its best class, {name}, has '
            f"{_part(score)}. Such a query never takes part, whatever the thresholds."
        )
    if query.reason is Reason.UNSURE:
        return (
            f"Its best class, {name}, has {_part(score)}, which is not above "
            f"OBJECT_MASK_THRESHOLD {object_mask:.2f}. Lower that below {_below(score)}, and it "
            "takes part."
        )
    if query.reason is Reason.EMPTY:
        return (
            f"It is sure of {name}, {_part(score)}, but no pixel of its mask reaches a probability "
            "of 0.5."
        )
    pixels = f"{query.won_area:,} pixel" + "s" * (query.won_area != 1)
    won = (
        f"It is sure of {name}, {_part(score)}, and won {pixels}; its mask has "
        f"{query.mask_area:,}. That is {_part(query.share)} of it"
    )
    if query.reason is Reason.KEPT:
        return f"{won}, not less than OVERLAP_THRESHOLD {overlap:.2f}."
    taker = ""
    if query.rival is not None:
        taker = f" The largest part belongs to {_called(explanation.queries[query.rival], names)}."
    if not query.won_area:
        return f"{won}: nothing is left of it, whatever OVERLAP_THRESHOLD.{taker}"
    return (
        f"{won}, less than OVERLAP_THRESHOLD {overlap:.2f}.{taker} Its pixels stay void; lower the "
        f"threshold to {_below(query.share)}, and it is kept."
    )


def _called(query: Query, names: Sequence[str]) -> str:
    return f"query {query.number}, {names[query.label]}"


def _part(value: float) -> str:
    """A part of one with two digits, or with as many as tell it from 0 and 1."""
    if value in (0, 1):
        return f"{value:.0f}"
    shown = (f"{value:.{digits}f}" for digits in range(2, 7))
    return next((text for text in shown if float(text) not in (0, 1)), f"{value:.7f}")


def _below(value: float) -> str:
    """The largest number with two digits that is not above a value; with more if that is 0."""
    for digits in range(2, 7):
        if floored := math.floor(value * 10**digits):
            break
    return f"{floored / 10**digits:.{digits}f}"


def tell_thresholds(explanation: Explanation, names: Sequence[str]) -> list[str]:
    """What the two thresholds do in this picture: a sentence or some for each step."""
    queries, (object_mask, overlap) = explanation.queries, explanation.thresholds
    unsure = explanation.of(Reason.UNSURE)
    players = [query for query in queries if query.takes_part]
    steps = [
        f'Each of the {len(queries)} queries names one class or "no object" and paints one mask. '
        f'"No object", so that they take no part: {len(explanation.of(Reason.NO_OBJECT))}.'
    ]
    first = (
        f"OBJECT_MASK_THRESHOLD {object_mask:.2f} asks how sure a query is of its class. Above it, "
        f"so that they take part: {len(players)}. Not above it, unsure: {len(unsure)}."
    )
    if unsure:
        best = max(unsure, key=lambda query: query.score)
        first += f" The next would be {_called(best, names)}, with {_part(best.score)}."
    steps.append(first)
    steps.append(
        "Of those that take part, each pixel goes to the one whose class probability times mask "
        "probability is highest there."
    )
    last = (
        f"OVERLAP_THRESHOLD {overlap:.2f} asks how many pixels a query has won, as a part of those "
        "in its own mask (probability at least 0.5). Pixels outside count too, so it may be above "
        f"1. At least this part, so that they are kept: {len(explanation.of(Reason.KEPT))}. Less, "
        f"occluded: {len(explanation.of(Reason.OCCLUDED))}. No pixel in the mask, empty: "
        f"{len(explanation.of(Reason.EMPTY))}."
    )
    if players:
        least = min(players, key=lambda query: query.share)
        last += f" The smallest part is that of {_called(least, names)}: {_part(least.share)}."
    return [*steps, last]


def as_row(query: Query, explanation: Explanation, names: Sequence[str]) -> dict[str, Any]:
    """A query as plain data: its values, the name of its class and why it was kept or dropped."""
    known = {**query._asdict(), "reason": query.reason.value, "share": query.share}
    return {**known, "category": names[query.label], "why": tell(query, explanation, names)}
