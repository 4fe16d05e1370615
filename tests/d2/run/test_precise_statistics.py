"""Statistics of norms taken anew: those of the moving average too, and whole or not at all."""

import pytest
import torch

from mask_former.d2.run.averaging import MovingAverage
from mask_former.d2.run.precise_statistics import PreciseStatistics
from tests.d2.run.runs import assert_equal, run
from tests.small_runs import tiny_cfg

OPTIONS = {
    "SOLVER.MAX_ITER": 1,
    "DATASETS.TEST": "()",
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 2,
}
KEY = "backbone.stem.conv1.norm.running_mean"


@pytest.mark.usefixtures("images")
def test_the_moving_average_has_them(tmp_path):
    plain = run(tiny_cfg(tmp_path / "a", {**OPTIONS, "TEST.PRECISE_BN.ENABLED": False}))
    precise = run(tiny_cfg(tmp_path / "b", {**OPTIONS, "SOLVER.EMA_DECAY": 0.5}))
    ours, before = (trainer.model.state_dict()[KEY] for trainer in (precise, plain))
    assert not torch.equal(ours, before)
    assert_equal(
        dict(precise._average.averaged.module.named_buffers()), dict(precise.model.named_buffers())
    )


BATCHES = [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])]


@pytest.mark.parametrize("averaging", [True, False])
def test_they_are_of_all_batches_together(averaging):
    norm = torch.nn.BatchNorm1d(1)
    average = MovingAverage(norm, 0.5) if averaging else None
    PreciseStatistics(1, norm, BATCHES, 2, average=average).update_stats()
    for model in (norm, average.averaged.module) if averaging else (norm,):
        assert (model.running_mean.item(), model.running_var.item()) == (4, 5)


def test_what_ends_half_way_changes_nothing():
    norm = torch.nn.BatchNorm1d(1)
    hook = PreciseStatistics(1, norm, [*BATCHES, None], 3, average=None)
    with pytest.raises(AssertionError, match="tensor as input"):
        hook.update_stats()
    assert (norm.running_mean.item(), norm.running_var.item()) == (0, 1)
