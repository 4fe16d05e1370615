"""Queries are counted: by hand-made predictions, and of a tiny model."""

import re

import numpy as np
import pytest
import torch

from mask_former.d2.build.model import build_model
from mask_former.d2.errors import InputError
from mask_former.d2.predictor import Predictor
from mask_former.d2.query_usage import (
    GRID,
    Answers,
    Usage,
    advice,
    answers,
    ask,
    count,
    order_by_use,
)
from mask_former.functional.lazy_masks import as_lazy
from tests.d2.export.test_graph import SEGMENTS, VALID
from tests.d2.tiny_models import MASK_FORMER, make_cfg

THRESHOLDS = (0.5, 0.8)


def logits_for(label, probability, num_classes=2):
    probs = torch.full((num_classes + 1,), (1 - probability) / num_classes)
    probs[label] = probability
    return probs.log()


def half(side, strength=6.0):
    """Mask logits [GRID, GRID] of the left half (0) or the right half (1)."""
    columns = torch.arange(GRID) >= GRID // 2
    return strength * (2.0 * (columns == bool(side)).float() - 1).expand(GRID, GRID)


def answered(*rows, segments=None):
    """Of queries given by class, probability and side."""
    class_logits = torch.stack([logits_for(label, p) for label, p, _ in rows])
    masks = torch.stack([half(side) for _, _, side in rows])
    return answers(class_logits, masks, as_lazy(masks), THRESHOLDS, segments)


def test_the_ends_of_a_query():
    """One that wins, its double, one that is not sure, one that says "no object"."""
    found = answered((0, 0.9, 0), (0, 0.8, 0), (1, 0.45, 1), (2, 0.9, 1), (1, 0.7, 1))
    assert found.labels.tolist() == [0, 0, 1, 2, 1]
    assert found.took_part.tolist() == [True, True, False, False, True]
    assert found.kept.tolist() == [True, False, False, False, True]
    assert found.places.shape == (5, GRID, GRID)
    assert found.places[0, 0, 0] > 0.99 > 0.01 > found.places[0, 0, -1]


def test_a_model_is_asked_as_it_works(tmp_path):
    """Of a picture that is padded, by a model that leaves padding out."""
    sure = {f"{MASK_FORMER}.TEST.OBJECT_MASK_THRESHOLD": 0.0, "INPUT.MIN_SIZE_TEST": 40}
    cfg = make_cfg({**SEGMENTS, **VALID, **sure, f"{MASK_FORMER}.TEST.OVERLAP_THRESHOLD": 0.0})
    cfg.MODEL.WEIGHTS = str(tmp_path / "m.pth")
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    predictor = Predictor(cfg)
    model, seen = predictor.model, []
    for name in ("class_embed", "mask_embed"):
        getattr(model.sem_seg_head.predictor, name).register_forward_hook(
            lambda module, inputs, output: seen.append(output.flatten())
        )
    picture = np.random.RandomState(0).randint(0, 256, (40, 70, 3), np.uint8)
    _, segments = predictor(picture)["panoptic_seg"]
    expected, seen = torch.cat(seen), []
    found = ask(predictor, picture)
    assert torch.equal(torch.cat(seen), expected)
    kept = found.labels[found.kept].tolist()
    assert sorted({s["category_id"] for s in segments}) == sorted(set(kept))
    assert len(kept) >= len(segments) > 0


def test_counts_are_sums_and_places_are_means_where_there_was_an_object():
    first = answered((0, 0.9, 0), (1, 0.9, 1), segments=2)
    second = answered((1, 0.9, 1), (2, 0.9, 0))
    usage = count([first, second], num_classes=2)
    assert usage.classes.tolist() == [[1, 1], [0, 1]]
    assert usage.spoken.tolist() == [2, 1]
    assert usage.kept.tolist() == [2, 1]
    assert usage.at_once.tolist() == [2, 1]
    assert usage.segments.tolist() == [2]
    assert usage.places[0] == pytest.approx(0.5, abs=0.01)  # left once, right once
    assert usage.places[1, 0, -1] == pytest.approx(1, abs=0.01)  # not where it had none
    assert order_by_use(usage) == [0, 1]


def test_no_picture():
    with pytest.raises(InputError, match="there is no picture"):
        count([], num_classes=2)


def usage_of(kept_of_pictures, segments=()):
    """Of queries of which so many, the first ones, are kept in each picture."""
    queries = 10
    rows = [
        Answers(
            np.where(np.arange(queries) < kept, 0, 1),
            np.arange(queries) < kept,
            np.arange(queries) < kept,
            np.zeros((queries, GRID, GRID)),
        )
        for kept in kept_of_pictures
    ]
    usage = count(rows, num_classes=1)
    assert isinstance(usage, Usage)
    return usage._replace(segments=np.array(segments, dtype=int))


@pytest.mark.parametrize(
    ("kept", "segments", "says"),
    [
        ([3, 4], (12, 4), "More are needed: at most 4 of 10 .* up to 12 true segments"),
        ([3, 10], (), "More may help: at most 10 of 10 .* 0 queries never did"),
        ([3, 7], (7, 3), "The number fits: at most 7 of 10 .* 3 queries never did"),
        ([2, 1], (2,), "Fewer would do: at most 2 of 10 .*NUM_OBJECT_QUERIES 4 would leave"),
        ([4, 1], (), "The number fits"),  # twice as many as are needed are 8
        ([2, 1], (8,), "The number fits"),  # the data would need more than the model finds
    ],
)
def test_advice(kept, segments, says):
    assert re.match(says, advice(usage_of(kept, segments)))
