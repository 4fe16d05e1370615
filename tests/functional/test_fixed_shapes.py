"""Whole maps in tensors of fixed shapes give what the eager functions give."""

import pytest
import torch

from mask_former.functional.fixed_shapes import (
    general_semantic_scores,
    instance_segments,
    panoptic_segments,
    semantic_scores,
)
from mask_former.functional.instances import instance_inference
from mask_former.functional.panoptic import panoptic_inference
from mask_former.functional.semantic import general_semantic_inference, semantic_inference
from tests.functional.cases import random_case

QUERIES, CLASSES, SIZE = 9, 4, (11, 14)
THRESHOLDS = [(0.0, 0.0), (0.4, 0.3), (0.8, 0.8), (0.999, 0.5)]


def logits(seed, batch=3, sure=3.0):
    g = torch.Generator().manual_seed(seed)
    classes = sure * torch.randn(batch, QUERIES, CLASSES + 1, generator=g)
    return classes, 2 * torch.randn(batch, QUERIES, *SIZE, generator=g)


@pytest.mark.parametrize("seed", range(3))
def test_semantic(seed):
    class_logits, mask_logits = logits(seed)
    found = semantic_scores(class_logits, mask_logits)
    for i in range(3):
        torch.testing.assert_close(found[i], semantic_inference(class_logits[i], mask_logits[i]))


@pytest.mark.parametrize("thresholds", THRESHOLDS)
def test_general_semantic(thresholds):
    class_logits, mask_logits = logits(4)
    found = general_semantic_scores(class_logits, mask_logits, *thresholds)
    for i in range(3):
        expected = general_semantic_inference(class_logits[i], mask_logits[i], *thresholds)
        torch.testing.assert_close(found[i], expected)


@pytest.mark.parametrize("things", [(), (0, 2), range(CLASSES)])
@pytest.mark.parametrize("thresholds", THRESHOLDS)
@pytest.mark.parametrize("seed", range(5))
def test_panoptic(seed, thresholds, things):
    class_logits, mask_logits = logits(seed)
    table = panoptic_segments(class_logits, mask_logits, things, *thresholds)
    assert table.classes.shape == table.scores.shape == table.areas.shape == (3, QUERIES)
    for i in range(3):
        ids, segments = panoptic_inference(class_logits[i], mask_logits[i], things, *thresholds)
        assert torch.equal(table.pixels[i], ids)
        n = len(segments)
        assert table.classes[i].tolist() == [s["category_id"] for s in segments] + [-1] * (
            QUERIES - n
        )
        assert table.areas[i].tolist() == [s["area"] for s in segments] + [0] * (QUERIES - n)
        scores = torch.tensor([s["score"] for s in segments] + [0.0] * (QUERIES - n))
        torch.testing.assert_close(table.scores[i], scores)


@pytest.mark.parametrize("seed", range(60))
def test_panoptic_with_ties_and_empty_masks(seed):
    class_logits, mask_logits, *options = random_case(seed)
    ids, segments = panoptic_inference(class_logits, mask_logits, *options)
    table = panoptic_segments(class_logits[None], mask_logits[None], *options)
    assert torch.equal(table.pixels[0], ids)
    found = [column[0, : len(segments)].tolist() for column in table[1:]]
    assert found == [[s[key] for s in segments] for key in ("category_id", "score", "area")]
    assert (table.classes[0, len(segments) :] == -1).all()


def test_panoptic_by_hand():
    """Query 0 and 2 are sky and join; 1 is unsure; 3 is a car under query 0, so it is dropped."""
    class_logits = torch.tensor([[9.0, 0, 0], [0, 0, 0], [8, 0, 0], [0, 7, 0]])[None]
    row = torch.tensor([[9.0, 9, -9, -9], [9, 9, 9, 9], [-9, -9, 9, -9], [8, -9, -9, -9]])
    table = panoptic_segments(class_logits, row[None, :, None], (1,), 0.5, 0.5)
    assert table.pixels.tolist() == [[[1, 1, 1, 1]]]
    assert table.classes.tolist() == [[0, -1, -1, -1]]
    assert table.areas.tolist() == [[4, 0, 0, 0]]


@pytest.mark.parametrize("most", [4, 100, -1])
@pytest.mark.parametrize("seed", range(3))
def test_instances(seed, most):
    class_logits, mask_logits = logits(seed)
    mask_logits[:, 3] = -5  # empty
    table = instance_segments(class_logits, mask_logits, (1, 3), most)
    for i in range(3):
        expected = instance_inference(class_logits[i], mask_logits[i], (1, 3), most)
        n = len(expected.labels)
        assert torch.equal(table.classes[i, :n].long(), expected.labels)
        assert torch.equal(table.pixels[i, :n], expected.masks)
        torch.testing.assert_close(table.scores[i, :n], expected.scores)
        assert torch.equal(table.areas[i, :n].long(), expected.masks.sum(dim=(1, 2)))
        assert (table.classes[i, n:] == -1).all()
        assert not table.areas[i, n:].any()
        assert not table.scores[i, n:].any()
