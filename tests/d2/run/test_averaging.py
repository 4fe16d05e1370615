"""The moving average of the weights: its formula, and that it is saved, resumed and evaluated."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mask_former.commands import train
from mask_former.d2.checkpoint import MaskFormerCheckpointer, average_weights
from mask_former.d2.predictor import load_predictor
from mask_former.d2.run.averaging import MovingAverage
from mask_former.d2.trainer import Trainer
from tests.d2.run.runs import assert_equal, interrupted_after, run, saved
from tests.small_runs import tiny_cfg

OPTIONS = {"SOLVER.EMA_DECAY": 0.5, "SOLVER.MAX_ITER": 4, "SOLVER.BASE_LR": 0.01}


def test_the_average():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    average, weights = MovingAverage(model, 0.75), []
    for value in (1.0, 2.0, 4.0):
        model[0].weight.data.fill_(value)
        model[1].running_mean.fill_(value)
        average.after_step()
        weights.append(average.averaged.module[0].weight.item())
    assert weights == pytest.approx([1, 1.25, 1.9375])
    assert average.averaged.module[1].running_mean.item() == 4


@pytest.mark.usefixtures("images")
def test_it_is_saved_resumed_evaluated_and_loaded(tmp_path, log):
    whole = run(tiny_cfg(tmp_path / "a", OPTIONS))
    assert {"sem_seg", "sem_seg_EMA"} == set(whole._last_eval_results)
    assert Path(whole.cfg.OUTPUT_DIR, "inference_EMA").is_dir()
    cfg = tiny_cfg(tmp_path / "b", OPTIONS)
    interrupted_after(cfg, 1)
    run(cfg, resume=True)
    assert_equal(saved(tmp_path / "b"), saved(tmp_path / "a"))

    file = tmp_path / "a" / "out" / "model_final.pth"
    config = tmp_path / "config.yaml"
    config.write_text(whole.cfg.dump())
    average = whole._average.averaged.module.eval()
    predictor = load_predictor(str(config), str(file))
    key = "sem_seg_head.predictor.query_embed.weight"
    assert torch.equal(predictor.model.state_dict()[key], average.state_dict()[key])
    assert not torch.equal(whole.model.state_dict()[key], average.state_dict()[key])
    assert f"Taking the moving average of the weights (EMA) of {file}" in log.text

    plain = Trainer.build_model(cfg)
    MaskFormerCheckpointer(plain).load(str(file))
    assert torch.equal(plain.state_dict()[key], whole.model.state_dict()[key])
    cfg.MODEL.WEIGHTS = str(file)
    results = train.evaluate(cfg, resume=False)
    for name, found in whole._last_eval_results.items():
        assert results[name]["mIoU"] == pytest.approx(found["mIoU"])


@pytest.mark.usefixtures("images")
def test_an_average_that_starts_on_the_way(tmp_path, log):
    cfg = tiny_cfg(tmp_path, {"SOLVER.MAX_ITER": 2, "DATASETS.TEST": "()"})
    run(cfg)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.EMA_DECAY = 3, 0.9
    again = run(cfg, resume=True)
    assert "has no moving average of the weights: it starts anew" in log.text
    assert_equal(
        dict(again._average.averaged.module.named_parameters()),
        dict(again.model.named_parameters()),
    )


@pytest.mark.usefixtures("images")
def test_an_average_that_was_never_filled_is_the_model(tmp_path):
    """A run that had ended is resumed with an average, which no step fills."""
    cfg = tiny_cfg(tmp_path, {"SOLVER.MAX_ITER": 1, "DATASETS.TEST": "()"})
    run(cfg)
    cfg.SOLVER.EMA_DECAY = 0.9
    again = run(cfg, resume=True)
    assert_equal(again._average.averaged.module.state_dict(), again.model.state_dict())
    assert average_weights(saved(tmp_path)) is None


def test_files_whose_average_was_never_filled():
    state = {"module.a": torch.ones(1), "n_averaged": torch.tensor(0)}
    assert average_weights({"ema": state}) is None
    assert average_weights({"ema": {**state, "n_averaged": torch.tensor(1)}}) == {"a": 1}
