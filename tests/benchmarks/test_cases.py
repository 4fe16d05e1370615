"""The works that are measured: both sides at small sizes."""

from pathlib import Path

import pytest
import torch

from benchmarks import (
    criterion,
    growth,
    loading,
    models,
    overlay,
    postprocessing,
    prediction,
    training,
)
from mask_former.d2.config import load_config
from tests.small_runs import flat

TINY = criterion.Shape(2, 64, 64, segments=3, classes=150)


def test_shapes_by_name_and_by_a_value() -> None:
    assert criterion.shape_named("coco").classes == 133
    assert criterion.shape_named("size=64")[1:3] == (64, 64)
    assert criterion.shape_named("queries=7") == criterion.GROWTH._replace(queries=7)


@pytest.mark.parametrize("result", postprocessing.RESULTS)
def test_results_of_both_sides_are_equal(result: str) -> None:
    found = []
    for side in postprocessing.SIDES:
        torch.manual_seed(0)
        found.append(postprocessing.build(f"postprocessing/{result}/size=70", side)())
    plain, ours = found
    assert ours.shape[-2:] == (70, 70)
    if result == "semantic":
        torch.testing.assert_close(ours, plain)
    else:
        assert (ours == plain).double().mean() > 0.999
        assert len(ours.unique()) > 5


def test_a_training_step_has_the_reference_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training.SHAPES, "ade20k", TINY)
    losses = []
    for side in training.SIDES[:2]:
        torch.manual_seed(0)
        step = training.build("training/ade20k", side)
        losses.append(torch.stack([step(), step()]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", loading.MAPPERS)
def test_loading(name: str, datasets_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets_root))
    monkeypatch.setattr(loading, "DRAWS", 2)
    states = []
    for side in loading.SIDES:
        loading.build(f"loading/{name}", side)()
        states.append(loading.np.random.rand())
    assert states[0] == states[1]  # both have drawn the same


def test_pictures_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="ADEChallengeData2016"):
        loading.build("loading/semantic", "ours")


@pytest.mark.parametrize("work", ["semantic/1", "panoptic/2", "train/2"])
def test_our_models_run(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results, build_model = [], models.build_model

    def watched(cfg: object) -> torch.nn.Module:
        model = build_model(cfg)
        model.register_forward_hook(lambda _, __, out: results.append(out))
        return model

    monkeypatch.setattr(models, "build_model", watched)
    models.build(f"models/R50/{work}/float32/eager/64", "ours")()
    (result,) = results
    if work == "train/2":
        assert len(result) == 3 * 6
    elif work == "semantic/1":
        assert int(result[0]["sem_seg"].max()) < models.SURE  # only those are given
    else:
        classes = {segment["category_id"] for segment in result[1]["panoptic_seg"][1]}
        assert 0 < len(classes) <= models.SURE


@pytest.mark.parametrize("side", overlay.SIDES)
def test_overlay(side: str) -> None:
    overlay.build("overlay/2", side)()


@pytest.mark.parametrize("side", prediction.SIDES)
def test_many_pictures(side: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.d2.prediction.conftest import TINY

    monkeypatch.setattr(prediction, "config", lambda _: load_config(opts=flat(TINY)))
    monkeypatch.setattr(prediction, "PICTURES", 2)
    monkeypatch.setattr(prediction.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    prediction.build("prediction/label+coco", side)()
    assert len(list(tmp_path.glob("results/label/*.png"))) == (2 if side == "worker" else 0)


def test_exponents_of_known_laws() -> None:
    rows = [
        {"case": f"criterion/size={n}", "side": "dense", "ms": 3.0 * n**2, "live MiB": 5.0}
        for n in (2, 4, 16)
    ]
    one = {"case": "criterion/classes=2", "side": "dense", "ms": 1.0, "live MiB": 1.0}
    time, memory = growth.exponents([*rows, one, one | {"case": "criterion/coco"}])
    assert (time["case"], time["side"], time["of"]) == ("criterion/size", "dense", "ms")
    assert time["exponent"] == pytest.approx(2)
    assert memory["exponent"] == pytest.approx(0, abs=1e-9)
