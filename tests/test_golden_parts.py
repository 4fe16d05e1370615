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
from tests.golden import inputs
from tests.golden_numbers import FLOAT32, assert_close, read_json, three_keys

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


# The original's own numbers are float32's, so ours are compared in float64 as well: what differs
# there is the same on every processor.
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "relative"), [(torch.float64, 1e-5), (torch.float32, FLOAT32)], ids=str
)
# Two segments of many-targets are of one class and have no pixel at the resolution of the masks, so
# they cost the same. Which of their two queries gets which is up to a processor's rounding.
ALIKE = {"many-targets": (33, 53)}
QUERY_OF_FIRST = (57, 42, 42)  # in the original, in each layer


def match(name, prediction, targets, weights):
    """Our matches, the segments that cost the same given to queries as the original did."""
    matches = bipartite_matching(prediction, targets, weights)
    for layer, query in enumerate(QUERY_OF_FIRST if name in ALIKE else ()):
        pair = (matches.layer == layer) & torch.isin(matches.target, torch.tensor(ALIKE[name]))
        assert query in matches.query[pair]
        matches.target[pair] = torch.where(matches.query[pair] == query, *ALIKE[name])
    return matches


def stacked_prediction(class_logits, mask_logits):
    """Embeddings that give any masks: one channel for each query of each layer.

    Args:
        class_logits: L tensors [B, Q, K+1].
        mask_logits: L tensors [B, Q, h, w].
    """
    layers, (images, queries) = len(class_logits), class_logits[0].shape[:2]
    one_hot = torch.eye(layers * queries, dtype=class_logits[0].dtype)
    one_hot = one_hot.view(layers, 1, queries, -1).expand(-1, images, -1, -1)
    return MaskPrediction(torch.stack(class_logits), one_hot, torch.cat(mask_logits, dim=1))


def matcher_inputs(case_name, params, dtype):
    logits, masks, labels, targets = inputs.matcher_case(case_name, **params)
    return (
        logits.to(dtype),
        masks.to(dtype),
        [MaskTarget(*t) for t in zip(labels, targets, strict=True)],
    )


@PRECISIONS
@pytest.mark.parametrize("weighting", ["w1-1-1", "w1-20-1"])
@pytest.mark.parametrize("name", MATCHER_CASES)
def test_matcher(golden, name, weighting, dtype, relative):
    case = read_json(golden / "matcher" / "cases.json")[f"{name}/{weighting}"]
    logits, masks, targets = matcher_inputs(name, case["params"], dtype)
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
            theirs = costs[f"{name}/{weighting}/cost{b}"]
            assert_close(ours[0], theirs, f"cost of image {b}", relative)
    matches = bipartite_matching(prediction, targets, weights)
    first, second = ALIKE.get(name, (0, 0))
    for b, (queries, segments) in enumerate(case["indices"]):
        chosen = matches.image == b
        assert matches.query[chosen].tolist() == queries
        ours = matches.target[chosen].tolist()
        assert [first if i == second else i for i in ours] == [
            first if i == second else i for i in segments
        ]


@PRECISIONS
@pytest.mark.parametrize("no_object_weight", [0.1, 1.0])
@pytest.mark.parametrize("name", MATCHER_CASES)
def test_criterion(golden, name, no_object_weight, dtype, relative):
    params = read_json(golden / "matcher" / "cases.json")[f"{name}/w1-20-1"]["params"]
    case = read_json(golden / "criterion" / "cases.json")[f"{name}/eos{no_object_weight}"]
    logits, masks, targets = matcher_inputs(name, params, dtype)
    levels = [*inputs.auxiliary_layers(logits, masks), (logits, masks)]
    class_logits, mask_logits = zip(*levels, strict=True)
    parts = stacked_prediction(class_logits, mask_logits)[:3]
    prediction = MaskPrediction(*(x.contiguous().requires_grad_() for x in parts))
    weights = LossWeights(1.0, 20.0, 1.0)
    criterion = SetCriterion(
        num_classes=params["K"],
        matcher=partial(match, name, weights=weights),
        weights=weights,
        no_object_weight=no_object_weight,
    ).to(dtype)
    losses = criterion(prediction, targets)
    unweighted = {k: v / (20 if k.startswith("loss_mask") else 1) for k, v in losses.items()}
    assert unweighted.keys() == case["unweighted_losses"].keys()
    for key, value in case["unweighted_losses"].items():
        assert float(unweighted[key].detach()) == pytest.approx(value, rel=relative), key

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
        assert float(norms[key]) == pytest.approx(value, rel=relative, abs=1e-9), key


@PRECISIONS
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
def test_inference(golden, name, dtype, relative):
    case = read_json(golden / "inference" / "cases.json")[name]
    params = case["params"]
    logits, masks = (x.to(dtype) for x in inputs.inference_case(name, **params))
    scores = semantic_inference(logits, masks)
    ids, segments = panoptic_inference(
        logits, masks, range(params["things"]), params["obj"], params["ov"]
    )
    with np.load(golden / "inference" / "outputs.npz") as stored:
        assert_close(scores[:, ::4, ::4], stored[f"{name}/semantic_s4"], "scores", relative)
        assert np.array_equal(scores.argmax(0).numpy(), stored[f"{name}/semantic_argmax"])
        assert np.array_equal(ids.numpy(), stored[f"{name}/panoptic_ids"])
    assert float(scores.sum()) == pytest.approx(case["semantic_sum"], rel=relative)
    assert str(ids.dtype) == case["panoptic_dtype"]
    assert three_keys(segments) == three_keys(case["segments_info"])
