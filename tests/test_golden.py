"""Agreement with numbers that the original computed, on weights and inputs made from names.

Whole models run in float64 (max|a-b| <= 1e-5 max|b| for each tensor) and, forward, in float32
within twice the error that the original itself has there.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList, Instances
from torch import Tensor

from mask_former.d2.build import build_model
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.config_merging import merge_opts, merge_yaml
from mask_former.functional.matching import bipartite_matching, matching_cost
from mask_former.functional.panoptic import panoptic_inference
from mask_former.functional.semantic import semantic_inference
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

CONFIGS = Path(__file__).parent.parent / "configs"
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
MODELS = ("ade20k-R50", "ade20k-swin-tiny", "coco-panoptic-R50")
TRAINED = ("ade20k-R50", "coco-panoptic-R50")
PER_PIXEL = "ade20k-per-pixel-R50"


def read_json(path):
    return json.loads(path.read_text())


def build(config, opts=()):
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, str(CONFIGS / config))
    merge_opts(cfg, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", *opts])
    return build_model(cfg)


def build_filled(golden, name, case):
    import fill

    model = fill.fill_module(build(case["config"], case["opts"]))
    calibration = golden / "calib" / f"{name}.npz"
    if calibration.exists():
        fill.apply_calibration(model, calibration)
    return model


def assert_close(ours: Tensor, golden: np.ndarray, what: str, relative: float = 1e-5) -> None:
    """max|a-b| <= relative * max|b|"""
    assert tuple(ours.shape) == golden.shape, what
    difference = np.abs(ours.detach().double().numpy() - golden.astype(np.float64)).max(initial=0)
    assert difference <= relative * np.abs(golden).max(initial=0), f"{what}: {difference}"


def published_configs():
    """Names of the original's files, base files included."""
    names = (path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
    return sorted(str(name) for name in names if name.parts[0] not in ("shapes", "camvid-11"))


def model_configs():
    return [name for name in published_configs() if not Path(name).name.startswith("Base-")]


@pytest.mark.parametrize("config", model_configs())
def test_state_dict(golden, config):
    """Names, order, shapes and types, on the meta device: nothing is allocated."""
    shapes = read_json(golden.parent / "spec" / "state_dict_shapes.json")
    (expected,) = [v for k, v in shapes.items() if k.removeprefix("configs/") == config]
    with torch.device("meta"):
        state = build(config, ["MODEL.DEVICE", "meta"]).state_dict()
    ours = {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in state.items()}
    assert list(ours.items()) == list(expected.items())
    assert state._metadata["sem_seg_head"]["version"] == 2


def flat(node, prefix=""):
    """Values by dotted key, in JSON's types."""
    values = {}
    for name, value in node.items():
        if isinstance(value, dict):
            values.update(flat(value, f"{prefix}{name}."))
        else:
            values[prefix + name] = json.loads(json.dumps(value))
    return values


def test_configs(golden):
    """All 36 files, base files included, give the original's values and differ as specified."""
    deltas = read_json(golden.parent / "spec" / "resolved_config_deltas.json")
    assert set(published_configs()) == deltas.keys()
    defaults = flat(get_mask_former_cfg())
    for name, delta in deltas.items():
        cfg = get_mask_former_cfg()
        merge_yaml(cfg, str(CONFIGS / name))
        values = flat(cfg)
        changed = {key: value for key, value in values.items() if value != defaults[key]}
        assert changed == delta, name
        file = name.replace("/", "-").replace(".yaml", ".json")
        original = read_json(golden / "cfgs" / file)
        assert {key: values[key] for key in original} == original, name


@pytest.fixture(scope="module", params=MODELS)
def forward_case(request, golden):
    import cases

    name = request.param
    case = read_json(golden / "forward" / f"{name}.json")
    model = build_filled(golden, name, case).eval()
    kind = "default" if case["sizes"] == [list(s) for s in cases.SIZES["default"][0]] else "odd"
    inputs = cases.model_inputs(name, *cases.SIZES[kind])
    with np.load(golden / "forward" / f"{name}.npz") as stored:
        return case, model, inputs, dict(stored)


def run_parts(model, inputs):
    """Features, the prediction and the results, as one forward pass forms them."""
    with torch.no_grad():
        images = model.normalize_and_pad(inputs)
        features = model.backbone(images.tensor)
        prediction = model.sem_seg_head(features)
        return features, prediction, model(inputs)


def test_forward_in_float64(forward_case):
    case, model, inputs, stored = forward_case
    features, prediction, results = run_parts(model.double(), inputs)
    for name, feature in features.items():
        assert_close(feature[:, ::16, ::2, ::2], stored[f"feat_{name}"], name)
    if "transformer_encoder_features" in stored:
        encoded = model.sem_seg_head.pixel_decoder(features).encoded
        assert_close(encoded.detach(), stored["transformer_encoder_features"], "encoded")
    assert_close(
        prediction.pixel_embed[:, ::16, ::2, ::2], stored["mask_features"], "mask_features"
    )
    assert_close(prediction.class_logits[-1], stored["pred_logits"], "pred_logits")
    assert_close(prediction.mask_logits(), stored["pred_masks"], "pred_masks")
    for layer in range(len(prediction.class_logits) - 1):
        if f"aux{layer}_pred_logits" in stored:
            logits, masks = prediction.class_logits[layer], prediction.mask_logits(layer)
            assert_close(logits[:, ::10], stored[f"aux{layer}_pred_logits"], f"aux{layer} logits")
            assert_close(masks[:, ::10], stored[f"aux{layer}_pred_masks"], f"aux{layer} masks")
    for i, result in enumerate(results):
        assert_close(result["sem_seg"][:, ::8, ::8], stored[f"sem_seg{i}_s8"], f"sem_seg {i}")
        clear = stored[f"sem_seg{i}_margin"] > 5e-3
        assert clear.mean() > 0.5
        labels = result["sem_seg"].argmax(0).numpy()
        assert (labels == stored[f"sem_seg{i}_argmax"])[clear].all()
        if f"panoptic{i}_ids" in stored:
            ids, segments = result["panoptic_seg"]
            assert np.array_equal(ids.numpy(), stored[f"panoptic{i}_ids"])
            assert three_keys(segments) == three_keys(case["segments_info"][i])


def test_forward_in_float32(forward_case):
    case, model, inputs, stored = forward_case
    features, prediction, results = run_parts(model.float(), inputs)
    allowed = case["fp32_max_abs_error"]
    found = {f"feat_{name}": (x[:, ::16, ::2, ::2], f"feat_{name}") for name, x in features.items()}
    found["mask_features"] = (prediction.pixel_embed[:, ::16, ::2, ::2], "mask_features")
    found["pred_logits"] = (prediction.class_logits[-1], "pred_logits")
    found["pred_masks"] = (prediction.mask_logits(), "pred_masks")
    for name, (ours, key) in found.items():
        difference = np.abs(ours.numpy() - stored[key]).max()
        assert difference <= 2 * allowed[name], name
    for i, result in enumerate(results):
        difference = np.abs(result["sem_seg"][:, ::8, ::8].numpy() - stored[f"sem_seg{i}_s8"]).max()
        assert difference <= 2 * allowed["sem_seg"]


@pytest.mark.parametrize("name", TRAINED)
def test_training(golden, name):
    import cases

    case = read_json(golden / "train" / f"{name}.json")
    model = build_filled(golden, name, case).double().train()
    inputs, matches = [], []
    num_classes = model.criterion.empty_weight.numel() - 1
    for image, _, labels, masks in cases.train_targets(
        name, case["kind"], case["segments"], num_classes
    ):
        instances = Instances(tuple(image.shape[-2:]), gt_classes=labels, gt_masks=masks)
        inputs.append({"image": image, "instances": instances})
    matcher = model.criterion.matcher
    model.criterion.matcher = lambda *args: matches.append(matcher(*args)) or matches[-1]
    losses = model(inputs)
    assert losses.keys() == case["weighted_losses"].keys()
    for key, value in case["weighted_losses"].items():
        assert float(losses[key].detach()) == pytest.approx(value, rel=1e-5), key
    total = sum(losses.values())
    assert float(total.detach()) == pytest.approx(case["total"], rel=1e-5)
    assert assignments(matches[0], len(inputs)) == case["indices_final_then_aux"]

    total.backward()
    assert_gradients(model, case)


@pytest.fixture(scope="module")
def per_pixel_forward(golden):
    import cases

    case = read_json(golden / "forward" / f"{PER_PIXEL}.json")
    model = build_filled(golden, PER_PIXEL, case).eval()
    with np.load(golden / "forward" / f"{PER_PIXEL}.npz") as stored:
        return case, model, cases.model_inputs(PER_PIXEL, *cases.SIZES["default"]), dict(stored)


@torch.no_grad()
def per_pixel_parts(model, inputs):
    """Strided tensors under their golden names, and the results."""
    images = [(x["image"] - model.pixel_mean) / model.pixel_std for x in inputs]
    features = model.backbone(ImageList.from_tensors(images).tensor)
    found = {f"feat_{name}": x[:, ::16, ::2, ::2] for name, x in features.items()}
    pixel_embed, _ = model.sem_seg_head.pixel_decoder.forward_features(features)
    found["mask_features"] = pixel_embed[:, ::16, ::2, ::2]
    logits, losses = model.sem_seg_head(features)
    assert losses == {}
    found["head_logits_s4"] = logits[:, :, 1::4, 2::4]
    results = [result["sem_seg"] for result in model(inputs)]
    return found | {f"sem_seg{i}_s8": x[:, ::8, ::8] for i, x in enumerate(results)}, results


def test_per_pixel_forward_in_float64(per_pixel_forward):
    _, model, inputs, stored = per_pixel_forward
    found, results = per_pixel_parts(model.double(), inputs)
    for name, ours in found.items():
        assert_close(ours, stored[name], name)
    for i, scores in enumerate(results):
        clear = stored[f"sem_seg{i}_margin"] > 5e-3
        assert clear.mean() > 0.5
        assert (scores.argmax(0).numpy() == stored[f"sem_seg{i}_argmax"])[clear].all()


def test_per_pixel_forward_in_float32(per_pixel_forward):
    case, model, inputs, stored = per_pixel_forward
    found, _ = per_pixel_parts(model.float(), inputs)
    for name, ours in found.items():
        allowed = case["fp32_max_abs_error"][
            name.removesuffix("_s4").removesuffix("_s8").rstrip("01")
        ]
        assert np.abs(ours.numpy() - stored[name]).max() <= 2 * allowed, name


def test_per_pixel_training(golden):
    import cases

    case = read_json(golden / "train" / f"{PER_PIXEL}.json")
    model = build_filled(golden, PER_PIXEL, case).double().train()
    samples = cases.train_targets(PER_PIXEL, case["kind"], case["segments"], 150)
    losses = model([{"image": image, "sem_seg": sem_seg} for image, sem_seg, _, _ in samples])
    assert losses.keys() == case["weighted_losses"].keys()
    total = sum(losses.values())
    assert float(total.detach()) == pytest.approx(case["total"], rel=1e-5)
    total.backward()
    assert_gradients(model, case)


def assert_gradients(model, case):
    norms = {k: float(p.grad.norm()) for k, p in model.named_parameters()}
    assert norms.keys() == case["grad_l2"].keys()
    floor = 1e-6 * case["grad_total_l2"]
    for key, value in case["grad_l2"].items():
        assert norms[key] == pytest.approx(value, rel=1e-5, abs=floor), key


def assignments(matches, num_images):
    """[layer][image] -> [queries, targets]; the last layer first, then the others in order."""
    layers = sorted(set(matches.layer.tolist()))
    found = []
    for layer in [layers[-1], *layers[:-1]]:
        of_layer = []
        for image in range(num_images):
            chosen = (matches.layer == layer) & (matches.image == image)
            of_layer.append([matches.query[chosen].tolist(), matches.target[chosen].tolist()])
        found.append(of_layer)
    return found


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


def three_keys(segments):
    """The keys that the original gives; ours adds score and area."""
    return [{k: s[k] for k in ("id", "isthing", "category_id")} for s in segments]
