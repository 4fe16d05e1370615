"""The best checkpoint, an early end, and evaluations that were missed; on results made up."""

from pathlib import Path

import pytest
from detectron2.config import CfgNode

from mask_former.d2.errors import InputError
from mask_former.d2.run.evaluation_hook import Evaluation
from mask_former.d2.solver import check_solver
from mask_former.d2.trainer import Trainer
from tests.d2.run.runs import assert_equal, interrupted_after, run, saved
from tests.small_runs import tiny_cfg

OPTIONS = {"SOLVER.MAX_ITER": 6, "TEST.EVAL_PERIOD": 1, "SOLVER.CHECKPOINT_PERIOD": 1}


@pytest.fixture(autouse=True)
def _results(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that depend on the iteration, of which the weights' schedule tells."""
    monkeypatch.setattr(
        Trainer, "_evaluate", lambda self: {"made": {"up": _VALUES[self.scheduler.last_epoch - 1]}}
    )


_VALUES = [3.0, 5.0, 4.0, float("nan"), 5.0, 4.5]


def config(folder: Path, **changes: object) -> CfgNode:
    return tiny_cfg(folder, {**OPTIONS, "TEST.BEST_METRIC": "made/up", **changes})


def best(folder: Path) -> int:
    return saved(folder, "model_best.pth")["trainer"]["iteration"]


def numbered(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").glob("model_00*.pth"))


def test_the_greatest_is_the_best(tmp_path):
    run(config(tmp_path))
    assert best(tmp_path) == 1
    assert saved(tmp_path)["trainer"]["iteration"] == 5


def test_of_a_loss_the_least_is_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Trainer,
        "_evaluate",
        lambda self: {"validation": {"loss": _VALUES[self.scheduler.last_epoch - 1]}},
    )
    run(config(tmp_path, **{"TEST.BEST_METRIC": "validation/loss"}))
    assert best(tmp_path) == 0


def test_it_ends_early_and_stays_so(tmp_path, log):
    cfg = config(tmp_path, **{"TEST.PATIENCE": 3})
    run(cfg)
    assert (
        "made/up has not improved in 3 evaluations (TEST.PATIENCE); the best is 5.0000 of "
        "iteration 1, in model_best.pth" in log.text
    )
    assert saved(tmp_path)["trainer"]["iteration"] == 4
    assert run(cfg, resume=True).iter == 4
    assert saved(tmp_path)["trainer"]["iteration"] == 4
    cfg.TEST.PATIENCE = 9
    run(cfg, resume=True)
    assert saved(tmp_path)["trainer"]["iteration"] == 5


def test_what_was_seen_is_resumed(tmp_path):
    run(config(tmp_path / "whole"))
    cfg = config(tmp_path / "parts")
    interrupted_after(cfg, 3)
    run(cfg, resume=True)
    assert best(tmp_path / "parts") == 1
    assert_equal(saved(tmp_path / "parts"), saved(tmp_path / "whole"))


def test_another_metric_starts_anew(tmp_path, monkeypatch, log):
    """Its values, far below those of the run before, are not compared with them."""
    interrupted_after(config(tmp_path, **{"TEST.PATIENCE": 9}), 4)
    monkeypatch.setattr(
        Trainer,
        "_evaluate",
        lambda self: {"made": {"other": _VALUES[self.scheduler.last_epoch - 1] - 100}},
    )
    cfg = config(tmp_path, **{"TEST.BEST_METRIC": "made/other", "TEST.PATIENCE": 3})
    run(cfg, resume=True)
    assert "TEST.BEST_METRIC was made/up: made/other starts anew" in log.text
    assert best(tmp_path) == 4
    assert saved(tmp_path)["trainer"]["iteration"] == 5


def test_checkpoints_that_do_not_name_their_metric():
    hook = Evaluation(1, dict, "made/up")
    hook.load_state_dict({"evaluated": 3, "best": 5.0, "at": 1, "since": 2})
    assert hook.state_dict()["best"] == 5.0


@pytest.mark.parametrize(
    ("metric", "is_loss"),
    [
        ("validation/loss", True),
        ("validation/loss_ce_0", True),
        ("total_loss", True),
        ("loss_mask", True),
        ("sem_seg/IoU-glossy", False),
        ("sem_seg/mIoU", False),
    ],
)
def test_which_metrics_are_losses(metric, is_loss):
    assert (Evaluation(1, dict, metric)._sign < 0) == is_loss


def test_a_missed_evaluation_is_made_up_for(tmp_path, monkeypatch):
    """The run ends between the checkpoint of iteration 1 and its evaluation."""
    cfg = config(tmp_path)

    def fail(self) -> dict:
        if self.scheduler.last_epoch == 2:
            raise RuntimeError
        return {"made": {"up": 1.0}}

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_evaluate", fail)
        with pytest.raises(RuntimeError):
            run(cfg)
    assert best(tmp_path) == 0
    run(cfg, resume=True)
    assert best(tmp_path) == 1


def test_metrics_that_nothing_gives(tmp_path):
    with pytest.raises(InputError, match=r"'made/upp', which the evaluation does not .* made/up"):
        run(config(tmp_path, **{"TEST.BEST_METRIC": "made/upp"}))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"TEST.BEST_METRIC": "''", "TEST.PATIENCE": 1}, r"PATIENCE is 1, which needs TEST\.BEST"),
        ({"TEST.PATIENCE": 1, "TEST.EVAL_PERIOD": 0}, r"TEST\.EVAL_PERIOD 0 has one at the end"),
        ({"TEST.PATIENCE": 1, "TEST.EVAL_PERIOD": -1}, r"TEST\.EVAL_PERIOD -1 has one at the end"),
        ({"DATASETS.TEST": "()"}, r"BEST_METRIC is made/up, which needs data sets in DATASETS"),
        (
            {"TEST.BEST_METRIC": "''", "TEST.LOSS": True, "DATASETS.TEST": "()"},
            r"TEST\.LOSS is True",
        ),
    ],
)
def test_keys_that_need_others(tmp_path, changes, fault):
    with pytest.raises(InputError, match=fault):
        check_solver(config(tmp_path, **changes))


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    cfg = config(tmp_path, **{"SOLVER.CHECKPOINTS_KEPT": 2})
    interrupted_after(cfg, 3)
    assert numbered(tmp_path) == ["model_0000001.pth", "model_0000002.pth"]
    run(cfg, resume=True)
    assert numbered(tmp_path) == ["model_0000004.pth", "model_0000005.pth"]
    assert best(tmp_path) == 1
