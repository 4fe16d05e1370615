"""The plain reference equals the golden numbers, and ours equals the plain reference."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import reference
from mask_former.functional.matching import bipartite_matching
from mask_former.functional.panoptic import panoptic_inference
from mask_former.functional.semantic import semantic_inference
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget
from tests.golden import inputs
from tests.golden_numbers import FLOAT32, assert_close, read_json

CASES = ("ade-like", "all-empty", "more-targets-than-queries", "odd-factor", "one-empty-image")
WEIGHTS = LossWeights(1.0, 20.0, 1.0)


@pytest.mark.parametrize("name", CASES)
def test_criterion_equals_golden(golden: Path, name: str) -> None:
    params = read_json(golden / "matcher" / "cases.json")[f"{name}/w1-20-1"]["params"]
    expected = read_json(golden / "criterion" / "cases.json")[f"{name}/eos0.1"]
    logits, masks, labels, target_masks = inputs.matcher_case(name, **params)
    levels = [*inputs.auxiliary_layers(logits, masks), (logits, masks)]
    queries = logits.shape[1]
    one_hot = torch.eye(3 * queries).view(3, 1, queries, -1).expand(-1, len(logits), -1, -1)
    prediction = MaskPrediction(
        torch.stack([level[0] for level in levels]),
        one_hot,
        torch.cat([level[1] for level in levels], dim=1),
    )
    targets = [MaskTarget(*pair) for pair in zip(labels, target_masks, strict=True)]
    empty_weight = torch.tensor([1.0] * params["K"] + [0.1])
    losses = reference.criterion(prediction, targets, WEIGHTS, empty_weight)
    for key, value in expected["unweighted_losses"].items():
        weight = 20 if key.startswith("loss_mask") else 1
        assert float(losses[key]) / weight == pytest.approx(value, rel=FLOAT32), key


@pytest.mark.parametrize("name", ["coco-defaults", "empty-masks", "stuff-merging"])
def test_inference_equals_golden(golden: Path, name: str) -> None:
    params = read_json(golden / "inference" / "cases.json")[name]["params"]
    logits, masks = inputs.inference_case(name, **params)
    things = frozenset(range(params["things"]))
    ids, _ = reference.panoptic_loop(logits, masks, things, params["obj"], params["ov"])
    with np.load(golden / "inference" / "outputs.npz") as stored:
        assert np.array_equal(ids.numpy(), stored[f"{name}/panoptic_ids"])
        scores = reference.semantic_scores(logits, masks)[:, ::4, ::4]
        assert_close(scores, stored[f"{name}/semantic_s4"], name, FLOAT32)


def test_our_criterion_equals_the_reference() -> None:
    g = torch.Generator().manual_seed(0)
    prediction = MaskPrediction(
        *(
            torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()
            for shape in ((3, 2, 9, 5), (3, 2, 9, 8), (2, 8, 6, 7))
        )
    )
    targets = [
        MaskTarget(torch.randint(0, 4, (n,), generator=g), torch.rand(n, 24, 28, generator=g) < 0.4)
        for n in (4, 2)
    ]
    criterion = SetCriterion(
        num_classes=4,
        matcher=partial(bipartite_matching, weights=WEIGHTS),
        weights=WEIGHTS,
        no_object_weight=0.1,
    )
    ours = criterion(prediction, targets)
    plain = reference.criterion(prediction, targets, WEIGHTS, criterion.empty_weight)
    assert ours.keys() == plain.keys()
    for name, loss in plain.items():
        torch.testing.assert_close(ours[name], loss, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(sum(x.values()), prediction[:3]) for x in (ours, plain)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_our_inference_equals_the_reference() -> None:
    g = torch.Generator().manual_seed(1)
    things = frozenset({0, 2})
    for _ in range(50):
        logits = 4 * torch.randn(8, 5, generator=g)
        masks = 3 * torch.randn(8, 5, 6, generator=g)
        plain = reference.results(
            logits,
            masks,
            (20, 24),
            (19, 22),
            (25, 30),
            semantic=True,
            panoptic=True,
            thing_ids=things,
            object_mask_threshold=0.5,
            overlap_threshold=0.5,
        )
        large = reference.resize(reference.resize(masks, (20, 24))[:, :19, :22], (25, 30))
        ids, segments = panoptic_inference(logits, large, things, 0.5, 0.5)
        plain_ids, plain_segments = plain["panoptic_seg"]
        assert torch.equal(ids, plain_ids)
        keys = ("id", "isthing", "category_id")
        assert [{k: s[k] for k in keys} for s in segments] == plain_segments
        torch.testing.assert_close(semantic_inference(logits, large), plain["sem_seg"])
