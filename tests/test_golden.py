"""Agreement with numbers that the original computed, on weights and inputs made from names.

Exactness is tested in float64, where processors and libraries do not differ. Float32's own noise
is another on every processor; there 1e-4 of a tensor's largest value is allowed.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList, Instances

from mask_former.d2.build.model import build_model
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.configuring.merging import merge_opts, merge_yaml
from tests.golden import inputs
from tests.golden_numbers import (
    FLOAT32,
    FLOAT64,
    assert_close,
    flat,
    read_json,
    thinned,
    three_keys,
)

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
    model = build(case["config"], case["opts"])
    calibration = golden / "calib" / f"{name}.npz"
    inputs.fill_model(model, calibration if calibration.exists() else None)
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
    expected = read_json(golden / "state_dicts.json.gz")[config]
    with torch.device("meta"):
        state = build(config, ["MODEL.DEVICE", "meta"]).state_dict()
    ours = {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in state.items()}
    assert list(ours.items()) == list(expected.items())
    assert state._metadata["sem_seg_head"]["version"] == 2


def resolved(config):
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, str(CONFIGS / config))
    return flat(cfg)


def test_configs(golden):
    """All 36 files, base files included, differ from the defaults as the original's do."""
    expected = read_json(golden / "configs.json")
    assert set(published_configs()) == expected.keys()
    defaults = flat(get_mask_former_cfg())
    for name, changes in expected.items():
        values = resolved(name)
        assert {k: v for k, v in values.items() if v != defaults[k]} == changes, name


def test_configs_have_every_value_of_the_original(full_golden):
    for name in published_configs():
        original = read_json(full_golden / "cfgs" / f"{name[:-5].replace('/', '-')}.json")
        values = resolved(name)
        assert {key: values[key] for key in original} == original, name


def test_this_set_is_the_full_one_thinned(golden, full_golden):
    """Single parts and training steps stand here whole, so one run compares them with both."""
    spec = full_golden.parent / "spec"
    elsewhere = {
        golden / "configs.json": spec / "resolved_config_deltas.json",
        golden / "state_dicts.json.gz": spec / "state_dict_shapes.json",
    }
    for path in sorted([*golden.rglob("*.json"), *golden.rglob("*.gz")]):
        full = elsewhere.get(path, full_golden / path.relative_to(golden))
        assert read_json(path) == read_json(full), path
    for path in sorted(golden.rglob("*.npz")):
        with np.load(path) as ours, np.load(full_golden / path.relative_to(golden)) as full:
            assert ours.files == full.files
            for name, values in ours.items():
                assert np.array_equal(values, thinned(name, full[name])), f"{path}: {name}"


@pytest.fixture(scope="module", params=MODELS)
def forward_case(request, golden):
    """Name, what is stored beside its arrays, the model and its inputs."""
    case = read_json(golden / "forward" / f"{request.param}.json")
    sizes = tuple(tuple(size) for size in case["sizes"])
    model = build_filled(golden, request.param, case).eval()
    return request.param, case, model, inputs.model_inputs(request.param, sizes)


@torch.no_grad()
def forward(model, samples):
    """One pass in parts: arrays under their golden names, as the full set has them; results."""
    features = model.backbone(model.normalize_and_pad(samples).tensor)
    found = strided(features)
    if hasattr(model.sem_seg_head.pixel_decoder, "transformer"):
        encoded = model.sem_seg_head.pixel_decoder(features).encoded
        found["transformer_encoder_features"] = encoded
    prediction = model.sem_seg_head(features)
    found["mask_features"] = prediction.pixel_embed[:, ::16, ::2, ::2]
    found["pred_logits"] = prediction.class_logits[-1]
    found["pred_masks"] = prediction.mask_logits()
    for layer in range(len(prediction.class_logits) - 1):
        found[f"aux{layer}_pred_logits"] = prediction.class_logits[layer][:, ::10]
        found[f"aux{layer}_pred_masks"] = prediction.mask_logits(layer)[:, ::10]
    results = model(samples)
    return found | strided_results(results), results


def strided(features):
    return {f"feat_{name}": x[:, ::16, ::2, ::2] for name, x in features.items()}


def strided_results(results):
    return {f"sem_seg{i}_s8": r["sem_seg"][:, ::8, ::8] for i, r in enumerate(results)}


@pytest.fixture(scope="module")
def forward64(forward_case):
    _, _, model, samples = forward_case
    return forward(model.double(), samples)


def load(folder, name):
    with np.load(folder / "forward" / f"{name}.npz") as stored:
        return dict(stored)


def assert_found(found, stored, relative):
    """All arrays that are stored were found and agree."""
    results = ("padded_hw", "_argmax", "_margin", "_ids")
    names = [name for name in stored if not name.endswith(results)]
    assert len(names) >= 8
    for name in names:
        assert_close(found[name], stored[name], name, relative)


def assert_labels(results, stored):
    """The same class wherever the best is ahead of the next."""
    for i, result in enumerate(results):
        clear = stored[f"sem_seg{i}_margin"] > 5e-3
        assert clear.mean() > 0.5
        labels = result["sem_seg"].argmax(0).numpy()
        assert (labels == stored[f"sem_seg{i}_argmax"])[clear].all()


def test_forward_in_float64(forward_case, forward64, golden):
    name, case, _, _ = forward_case
    found, results = forward64
    stored = load(golden, name)
    assert_found({key: thinned(key, x) for key, x in found.items()}, stored, FLOAT64)
    assert_labels(results, stored)
    for i, segments in enumerate(case.get("segments_info", ())):
        ids, ours = results[i]["panoptic_seg"]
        assert np.array_equal(ids.numpy(), stored[f"panoptic{i}_ids"])
        assert three_keys(ours) == three_keys(segments)


def test_forward_in_float64_in_full(forward_case, forward64, full_golden):
    assert_found(forward64[0], load(full_golden, forward_case[0]), FLOAT64)


def test_forward_in_float32(forward_case, golden):
    name, _, model, samples = forward_case
    found, _ = forward(model.float(), samples)
    assert_found({k: thinned(k, x) for k, x in found.items()}, load(golden, name), FLOAT32)


@pytest.mark.parametrize("name", TRAINED)
def test_training(golden, name):
    case = read_json(golden / "train" / f"{name}.json")
    model = build_filled(golden, name, case).double().train()
    num_classes = model.criterion.empty_weight.numel() - 1
    samples, matches = [], []
    for image, _, labels, masks in inputs.training_samples(
        name, case["kind"], case["segments"], num_classes
    ):
        instances = Instances(tuple(image.shape[-2:]), gt_classes=labels, gt_masks=masks)
        samples.append({"image": image, "instances": instances})
    matcher = model.criterion.matcher
    model.criterion.matcher = lambda *args: matches.append(matcher(*args)) or matches[-1]
    losses = model(samples)
    assert losses.keys() == case["weighted_losses"].keys()
    for key, value in case["weighted_losses"].items():
        assert float(losses[key].detach()) == pytest.approx(value, rel=1e-5), key
    total = sum(losses.values())
    assert float(total.detach()) == pytest.approx(case["total"], rel=1e-5)
    assert assignments(matches[0], len(samples)) == case["indices_final_then_aux"]

    total.backward()
    assert_gradients(model, case)


@pytest.fixture(scope="module")
def per_pixel_model(golden):
    case = read_json(golden / "forward" / f"{PER_PIXEL}.json")
    return build_filled(golden, PER_PIXEL, case).eval()


@torch.no_grad()
def per_pixel_forward(model):
    samples = inputs.model_inputs(PER_PIXEL, inputs.EVEN_SIZES)
    images = [(x["image"] - model.pixel_mean) / model.pixel_std for x in samples]
    features = model.backbone(ImageList.from_tensors(images).tensor)
    found = strided(features)
    pixel_embed, _ = model.sem_seg_head.pixel_decoder.forward_features(features)
    found["mask_features"] = pixel_embed[:, ::16, ::2, ::2]
    logits, losses = model.sem_seg_head(features)
    assert losses == {}
    found["head_logits_s4"] = logits[:, :, 1::4, 2::4]
    results = model(samples)
    return found | strided_results(results), results


@pytest.fixture(scope="module")
def per_pixel_forward64(per_pixel_model):
    return per_pixel_forward(per_pixel_model.double())


def test_per_pixel_forward_in_float64(per_pixel_forward64, golden):
    found, results = per_pixel_forward64
    stored = load(golden, PER_PIXEL)
    assert_found({key: thinned(key, x) for key, x in found.items()}, stored, FLOAT64)
    assert_labels(results, stored)


def test_per_pixel_forward_in_float64_in_full(per_pixel_forward64, full_golden):
    assert_found(per_pixel_forward64[0], load(full_golden, PER_PIXEL), FLOAT64)


def test_per_pixel_forward_in_float32(per_pixel_model, golden):
    found, _ = per_pixel_forward(per_pixel_model.float())
    assert_found({k: thinned(k, x) for k, x in found.items()}, load(golden, PER_PIXEL), FLOAT32)


def test_per_pixel_training(golden):
    case = read_json(golden / "train" / f"{PER_PIXEL}.json")
    model = build_filled(golden, PER_PIXEL, case).double().train()
    samples = inputs.training_samples(PER_PIXEL, case["kind"], case["segments"], 150)
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
