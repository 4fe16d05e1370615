"""Semantic inference, marginal and general, against slow references: scores and labels."""

import math

import pytest
import torch

from benchmarks import reference
from mask_former.functional import lazy_masks as lazy
from mask_former.functional.lazy_masks import lazy_masks
from mask_former.functional.semantic import general_semantic_inference, semantic_inference
from tests.functional.cases import (
    CLASS_LOGITS,
    MASK_LOGITS,
    embedded_case,
    random_case,
    slow_general,
)


def slow_semantic(class_logits, mask_logits):
    """The double sum in Python's own numbers, a class and a pixel at a time."""
    _, h, w = mask_logits.shape
    classes = class_logits.shape[1] - 1
    weights = [[math.exp(z) for z in row] for row in class_logits.tolist()]
    masks = [[[1 / (1 + math.exp(-m)) for m in row] for row in q] for q in mask_logits.tolist()]

    def score(c, y, x):
        pairs = zip(weights, masks, strict=True)
        return sum(weight[c] / sum(weight) * mask[y][x] for weight, mask in pairs)

    return torch.tensor(
        [[[score(c, y, x) for x in range(w)] for y in range(h)] for c in range(classes)]
    )


def test_semantic_published_values():
    expected = torch.tensor(
        [
            [[0.642057, 0.252508], [0.642057, 0.252508]],
            [[0.504301, 0.706568], [0.504301, 0.706568]],
        ]
    )
    scores = semantic_inference(CLASS_LOGITS, MASK_LOGITS)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)


def test_semantic_equals_the_slow_reference_on_many_random_cases():
    for seed in range(300):
        class_logits, mask_logits, *_ = random_case(seed)
        scores = semantic_inference(class_logits, mask_logits)
        torch.testing.assert_close(scores, slow_semantic(class_logits, mask_logits), msg=str(seed))


def test_general_semantic_equals_the_slow_reference_on_many_random_cases():
    empty = 0
    for seed in range(400):
        class_logits, mask_logits, _, *thresholds = random_case(seed)
        scores = general_semantic_inference(class_logits, mask_logits, *thresholds)
        expected = slow_general(class_logits, mask_logits, *thresholds)
        torch.testing.assert_close(scores, expected, msg=str(seed))
        empty += int(not expected.any())
    assert 0 < empty < 300


def test_general_scores_are_resized_as_whole_ones_are():
    for seed in range(100):
        class_logits, embeds, (padded, size, output), _, thresholds = embedded_case(seed)
        masks = lazy_masks(*embeds, padded, size)
        whole = general_semantic_inference(class_logits, masks, *thresholds)
        scores = general_semantic_inference(class_logits, masks, *thresholds, output)
        torch.testing.assert_close(scores, reference.resize(whole, output))


@pytest.mark.parametrize("cached", [1, 10**6])
def test_labels_are_those_of_the_highest_scores(monkeypatch, cached):
    monkeypatch.setattr(lazy, "CACHED", cached)
    for seed in range(100):
        class_logits, embeds, (padded, size, output), _, thresholds = embedded_case(seed)
        masks = lazy_masks(*embeds, padded, size)
        for infer, arguments in (
            (semantic_inference, (class_logits, masks)),
            (general_semantic_inference, (class_logits, masks, *thresholds)),
        ):
            scores = infer(*arguments, output)
            labels = infer(*arguments, output, labels=True)
            assert labels.dtype == torch.int64
            assert torch.equal(labels, scores.argmax(0))
