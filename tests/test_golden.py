"""Agreement with numbers that the original computed, on weights and inputs made from names.

Whole models run in float64 (max|a-b| <= 1e-5 max|b| for each tensor) and, forward, in float32
within twice the error that the original itself has there.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList, Instances

from mask_former.d2.build.model import build_model
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.config_merging import merge_opts, merge_yaml
from tests.golden_numbers import assert_close, read_json, three_keys

CONFIGS = Path(__file__).parent.parent / "configs"
MODELS = ("ade20k-R50", "ade20k-swin-tiny", "coco-panoptic-R50")
TRAINED = ("ade20k-R50", "coco-panoptic-R50")
PER_PIXEL = "ade20k-per-pixel-R50"


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


@torch.no_grad()
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


@torch.no_grad()
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
