"""The linear rule for another batch size."""

import pytest

from mask_former.d2.config import load_config
from mask_former.d2.errors import InputError
from mask_former.d2.run.batch_scaling import scale_batch

OPTIONS = {"IMS_PER_BATCH": 16, "BASE_LR": 1e-4, "MAX_ITER": 1001, "WARMUP_ITERS": 10}


def config():
    opts = [part for key, value in OPTIONS.items() for part in (f"SOLVER.{key}", value)]
    return load_config(opts=[*opts, "SOLVER.STEPS", (600, 900), "TEST.EVAL_PERIOD", 100])


def test_the_rule():
    cfg = config()
    table = scale_batch(cfg, 8)
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (8, 5e-5, 2002)
    assert (solver.WARMUP_ITERS, solver.STEPS, cfg.TEST.EVAL_PERIOD) == (20, (1200, 1800), 200)
    assert "TEST.EVAL_PERIOD" in table
    assert "0.0001" in table
    scale_batch(cfg, 64)
    assert (solver.MAX_ITER, solver.BASE_LR) == (251, 4e-4)


def test_the_same_batch_changes_nothing():
    cfg = config()
    assert scale_batch(cfg, 16).count("\n") == 1  # the headings
    assert cfg == config()


def test_no_batch():
    with pytest.raises(InputError, match="--batch is 0"):
        scale_batch(config(), 0)
