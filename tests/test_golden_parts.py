"""Matching, losses and inference agree with numbers that the original computed."""

from functools import partial

import numpy as np
import pytest
import torch

from mask_former.functional.matching import bipartite_matching, matching_cost
from mask_former.functional.panoptic import panoptic_inference
from mask_former.functional.semantic import semantic_inference
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget
from tests.golden_numbers import assert_close, read_json, three_keys

MATCHER_CASES = (
    "ade-like",
    "all-empty",
    "equal-targets",
    "many-targets",
    "more-targets-than-queries",
    "odd-factor",
    "one-empty-image",
    "single-target",
    "small",
)


def stacked_prediction(class_logits, mask_logits):
    """Embeddings that give any masks: one channel for each query of each layer.

    Args:
        class_logits: L tensors [B, Q, K+1].
        mask_logits: L tensors [B, Q, h, w].
    """
    layers, (images, queries) = len(class_logits), class_logits[0].shape[:2]
    one_hot = torch.eye(layers * queries).view(layers, 1, queries, -1).expand(-1, images, -1, -1)
    return MaskPrediction(torch.stack(class_logits), one_hot, torch.cat(mask_logits, dim=1))


def matcher_inputs(case_name, params):
    import cases

    logits, masks, labels, targets = cases.matcher_case(case_name, **params)
    return logits, masks, [MaskTarget(*t) for t in zip(labels, targets, strict=True)]


@pytest.mark.parametrize("weighting", ["w1-1-1", "w1-20-1"])
@pytest.mark.parametrize("name", MATCHER_CASES)
def test_matcher(golden, name, weighting):
    case = read_json(golden / "matcher" / "cases.json")[f"{name}/{weighting}"]
    logits, masks, targets = matcher_inputs(name, case["params"])
    prediction = stacked_prediction([logits], [masks])
    weights = LossWeights(*case["weights"])
    with np.load(golden / "matcher" / "costs.npz") as costs:
        for b, target in enumerate(targets):
            ours = matching_cost(
                prediction.class_logits[:, b],
                prediction.mask_embed[:, b],
                prediction.pixel_embed[b],
                target,
            ).weighted_sum(weights)
            assert_close(ours[0], costs[f"{name}/{weighting}/cost{b}"], f"cost of image {b}")
    matches = bipartite_matching(prediction, targets, weights)
    for b, expected in enumerate(case["indices"]):
        chosen = matches.image == b
        assert [matches.query[chosen].tolist(), matches.target[chosen].tolist()] == expected


@pytest.mark.parametrize("no_object_weight", [0.1, 1.0])
@pytest.mark.parametrize("name", MATCHER_CASES)
def test_criterion(golden, name, no_object_weight):
    import cases

    params = read_json(golden / "matcher" / "cases.json")[f"{name}/w1-20-1"]["params"]
    case = read_json(golden / "criterion" / "cases.json")[f"{name}/eos{no_object_weight}"]
    logits, masks, targets = matcher_inputs(name, params)
    levels = [*cases.auxiliary_levels(logits, masks), (logits, masks)]
    class_logits, mask_logits = zip(*levels, strict=True)
    prediction = MaskPrediction(
        *(x.contiguous().requires_grad_() for x in stacked_prediction(class_logits, mask_logits))
    )
    weights = LossWeights(1.0, 20.0, 1.0)
    criterion = SetCriterion(
        num_classes=params["K"],
        matcher=partial(bipartite_matching, weights=weights),
        weights=weights,
        no_object_weight=no_object_weight,
    )
    losses = criterion(prediction, targets)
    unweighted = {k: v / (20 if k.startswith("loss_mask") else 1) for k, v in losses.items()}
    assert unweighted.keys() == case["unweighted_losses"].keys()
    for key, value in case["unweighted_losses"].items():
        assert float(unweighted[key].detach()) == pytest.approx(value, rel=1e-5), key

    class_grad, mask_grad = torch.autograd.grad(
        sum(unweighted.values()), (prediction.class_logits, prediction.pixel_embed)
    )
    of_layers = mask_grad.chunk(len(levels), dim=1)
    norms = {
        "pred_logits": class_grad[-1].norm(),
        "pred_masks": of_layers[-1].norm(),
        "aux0_pred_masks": of_layers[0].norm(),
    }
    for key, value in case["grad_l2"].items():
        assert float(norms[key]) == pytest.approx(value, rel=1e-5, abs=1e-9), key


@pytest.mark.parametrize(
    "name",
    [
        "all-no-object",
        "coco-defaults",
        "empty-masks",
        "nothing-above-threshold",
        "single-query",
        "stuff-merging",
    ],
)
def test_inference(golden, name):
    import cases

    case = read_json(golden / "inference" / "cases.json")[name]
    params = case["params"]
    logits, masks = cases.inference_case(name, **params)
    scores = semantic_inference(logits, masks)
    ids, segments = panoptic_inference(
        logits, masks, range(params["things"]), params["obj"], params["ov"]
    )
    with np.load(golden / "inference" / "outputs.npz") as stored:
        assert_close(scores[:, ::4, ::4], stored[f"{name}/semantic_s4"], "scores")
        assert np.array_equal(scores.argmax(0).numpy(), stored[f"{name}/semantic_argmax"])
        assert np.array_equal(ids.numpy(), stored[f"{name}/panoptic_ids"])
    assert float(scores.sum()) == pytest.approx(case["semantic_sum"], rel=1e-5)
    assert str(ids.dtype) == case["panoptic_dtype"]
    assert three_keys(segments) == three_keys(case["segments_info"])
