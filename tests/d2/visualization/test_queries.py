"""What became of each query: a case worked out by hand, and laws beside panoptic inference."""

import pytest
import torch

from mask_former.d2.visualization.queries import (
    Reason,
    Thresholds,
    as_row,
    explain_queries,
    tell,
    tell_thresholds,
)
from mask_former.functional.lazy_masks import lazy_masks
from mask_former.functional.panoptic import panoptic_inference

NAMES = ["sky", "circle"]


def class_logits(*rows: tuple[float, float, float]) -> torch.Tensor:
    """Of probabilities for sky, circle and no object."""
    return torch.tensor(rows).log()


def mask_logits(*rows: list[float]) -> torch.Tensor:
    """Of mask probabilities, in pictures of one row."""
    return torch.tensor(rows)[:, None].logit()


# Five queries, four pixels. Class times mask probability decides each pixel:
#   0, sky 0.9:     0.81  0.81  0.81  0.09
#   1, circle 0.8:  0.08  0.48  0.48  0.40   wins the last alone; its mask has three
#   4, circle 0.95: 0.285 0.19  0.095 0.095  its mask has none
CLASSES = class_logits(
    (0.9, 0.05, 0.05),
    (0.1, 0.8, 0.1),
    (0.4, 0.35, 0.25),  # less sure than 0.5
    (0.1, 0.2, 0.7),  # no object
    (0.04, 0.95, 0.01),
)
MASKS = mask_logits(
    [0.9, 0.9, 0.9, 0.1],
    [0.1, 0.6, 0.6, 0.5],
    [0.7, 0.1, 0.1, 0.1],
    [0.9, 0.9, 0.9, 0.9],
    [0.3, 0.2, 0.1, 0.1],
)


@pytest.fixture
def explanation():
    return explain_queries(CLASSES, MASKS, {1}, Thresholds(0.5, 0.5))


def test_by_hand(explanation):
    rows = [(q.label, q.mask_area, q.won_area, q.reason) for q in explanation.queries]
    assert rows == [
        (0, 3, 3, Reason.KEPT),
        (1, 3, 1, Reason.OCCLUDED),
        (0, 1, 0, Reason.UNSURE),
        (1, 4, 0, Reason.NO_OBJECT),
        (1, 0, 0, Reason.EMPTY),
    ]
    scores = [q.score for q in explanation.queries]
    assert scores == pytest.approx([0.9, 0.8, 0.4, 0.2, 0.95])
    assert [q.no_object for q in explanation.queries] == pytest.approx([0.05, 0.1, 0.25, 0.7, 0.01])
    assert [q.segment for q in explanation.queries] == [1, 0, 0, 0, 0]
    assert [q.rival for q in explanation.queries] == [None, 0, None, None, None]
    assert explanation.queries[1].share == pytest.approx(1 / 3)
    assert [q.number for q in explanation.of(Reason.EMPTY, Reason.KEPT)] == [0, 4]
    assert explanation.ids.tolist() == [[1, 1, 1, 0]]
    assert [s["category_id"] for s in explanation.segments] == [0]


def test_thresholds_decide(explanation):
    lower = explain_queries(CLASSES, MASKS, {1}, Thresholds(0.3, 0.33))
    assert [q.reason for q in lower.queries[:3]] == [Reason.KEPT, Reason.KEPT, Reason.OCCLUDED]
    assert lower.queries[2].won_area == 0
    assert lower.queries[2].rival == 0
    assert "nothing is left of it" in tell(lower.queries[2], lower, NAMES)


def test_sentences(explanation):
    told = [tell(query, explanation, NAMES) for query in explanation.queries]
    assert told[0] == (
        "It is sure of sky, 0.90, and won 3 pixels; its mask has 3. That is 1 of it, not less than "
        "OVERLAP_THRESHOLD 0.50."
    )
    assert told[1] == (
        "It is sure of circle, 0.80, and won 1 pixel; its mask has 3. That is 0.33 of it, less "
        "than OVERLAP_THRESHOLD 0.50. The largest part belongs to query 0, sky. Its pixels "
        "stay void; lower the threshold to 0.33, and it is kept."
    )
    assert told[2].startswith("Its best class, sky, has 0.40, which is not above OBJECT_MASK_THR")
    assert told[3].startswith('"No object" is likeliest, 0.70; its best class, circle, has 0.20.')
    assert told[4].startswith("It is sure of circle, 0.95, but no pixel of its mask reaches")
    row = as_row(explanation.queries[1], explanation, NAMES)
    assert row["why"] == told[1]
    assert (row["category"], row["reason"], row["share"]) == ("circle", "occluded", 1 / 3)


def test_the_thresholds_in_this_picture(explanation):
    told = tell_thresholds(explanation, NAMES)
    assert told[0].startswith("Each of the 5 queries")
    assert told[0].endswith("take no part: 1.")
    assert "so that they take part: 3. Not above it, unsure: 1." in told[1]
    assert told[1].endswith("The next would be query 2, sky, with 0.40.")
    assert "kept: 1. Less, occluded: 1. No pixel in the mask, empty: 1." in told[3]
    assert told[3].endswith("The smallest part is that of query 4, circle: 0.")


def test_advice_is_true():
    """A share of 2/3 is 0.67 when rounded, at which the query would still be dropped."""
    classes = class_logits((0.9, 0.05, 0.05), (0.1, 0.8, 0.1))
    masks = mask_logits([0.9, 0.1, 0.1], [0.6, 0.6, 0.6])
    dropped = explain_queries(classes, masks, {1}, Thresholds(0.5, 0.7))
    assert "lower the threshold to 0.66," in tell(dropped.queries[1], dropped, NAMES)
    kept = explain_queries(classes, masks, {1}, Thresholds(0.5, 0.66))
    assert kept.queries[1].reason is Reason.KEPT
    even = explain_queries(torch.zeros(1, 301), masks[:1], (), Thresholds(0.5, 0.5))
    assert "Lower that below 0.003, and" in tell(even.queries[0], even, ["some"] * 300)


@pytest.mark.parametrize("object_mask", [0.0, 1.0])
def test_nobody_takes_part(object_mask):
    classes = CLASSES[3:4] if object_mask == 0 else CLASSES
    masks = MASKS[3:4] if object_mask == 0 else MASKS
    explanation = explain_queries(classes, masks, {1}, Thresholds(object_mask, 0.5))
    assert not explanation.ids.any()
    assert not any(query.takes_part for query in explanation.queries)
    assert "smallest part" not in tell_thresholds(explanation, NAMES)[-1]


@pytest.mark.parametrize("seed", range(8))
def test_the_kept_are_the_segments(seed):
    g = torch.Generator().manual_seed(seed)
    classes = 2 * torch.randn(12, 5, generator=g)
    masks = lazy_masks(
        torch.randn(12, 4, generator=g), torch.randn(4, 9, 8, generator=g), (36, 32), (33, 30)
    )
    things, thresholds = {0, 2}, Thresholds(0.05 * seed, 0.1 * seed)
    found = explain_queries(classes, masks, things, thresholds)
    ids, segments = panoptic_inference(classes, masks, things, *thresholds)
    assert torch.equal(found.ids, ids)
    assert found.segments == segments
    kept = found.of(Reason.KEPT)
    assert {query.segment for query in kept} == {segment["id"] for segment in segments}
    for segment in segments:
        parts = [query for query in kept if query.segment == segment["id"]]
        assert {query.label for query in parts} == {segment["category_id"]}
        assert sum(query.won_area for query in parts) == segment["area"]
        assert max(query.score for query in parts) == segment["score"]
        assert len(parts) == 1 or not segment["isthing"]
    for query in found.queries:
        if query.reason is Reason.KEPT:
            assert query.share >= thresholds.overlap
        if query.reason is Reason.UNSURE:
            assert query.score <= thresholds.object_mask
        if query.reason is Reason.NO_OBJECT:
            assert query.no_object > query.score
    probability = masks.formed().rows(0, 33).sigmoid()
    areas = (probability >= 0.5).sum(dim=(1, 2)).tolist()
    assert [query.mask_area for query in found.queries] == areas


def test_logits_of_a_batch_are_refused():
    with pytest.raises(ValueError, match="general inference takes one image"):
        explain_queries(CLASSES[None], MASKS, {1}, Thresholds(0.5, 0.5))
