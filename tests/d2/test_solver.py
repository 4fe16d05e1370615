"""Parameter groups, clipping and schedules, by hand and against the original's numbers."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from torch import nn

from mask_former.d2.build import build_model
from mask_former.d2.config import get_mask_former_cfg, merge_opts, merge_yaml
from mask_former.d2.solver import build_lr_scheduler, build_optimizer

CONFIGS = Path(__file__).parents[2] / "configs"


def config(*opts: object) -> CfgNode:
    cfg = get_mask_former_cfg()
    merge_opts(cfg, [str(opt) for opt in opts])
    return cfg


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.norm = nn.BatchNorm2d(1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.ModuleList([nn.Linear(1, 1), nn.GroupNorm(1, 1), nn.Embedding(1, 1)])
        self.backbone = Swin()
        self.tied = self.head[0]


def test_parameter_groups():
    cfg = config(
        "SOLVER.BASE_LR", 0.5, "SOLVER.WEIGHT_DECAY", 0.25, "SOLVER.BACKBONE_MULTIPLIER", 0.1
    )
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0625
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.125
    model = Model()
    optimizer = build_optimizer(cfg, model)
    head, backbone = model.head, model.backbone
    expected = [  # in the order of registration: modules, and the parameters of each
        (head[0].weight, 0.5, 0.25),
        (head[0].bias, 0.5, 0.25),
        (head[1].weight, 0.5, 0.0625),
        (head[1].bias, 0.5, 0.0625),
        (head[2].weight, 0.5, 0.125),
        (backbone.absolute_pos_embed, 0.05, 0.0),
        (backbone.relative_position_bias_table, 0.05, 0.0),
        (backbone.norm.weight, 0.05, 0.0625),
        (backbone.norm.bias, 0.05, 0.0625),
    ]
    assert type(optimizer) is torch.optim.AdamW
    assert len(optimizer.param_groups) == len(expected)
    for group, (parameter, lr, weight_decay) in zip(optimizer.param_groups, expected, strict=True):
        assert len(group["params"]) == 1
        assert group["params"][0] is parameter
        assert group["lr"] == pytest.approx(lr)
        assert group["weight_decay"] == weight_decay


def test_sgd():
    optimizer = build_optimizer(config("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.7), Model())
    assert isinstance(optimizer, torch.optim.SGD)
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.7, False)}


def test_unknown_optimizer():
    with pytest.raises(NotImplementedError, match=r"LION.*ADAMW or SGD"):
        build_optimizer(config("SOLVER.OPTIMIZER", "LION"), Model())


class TwoNumbers(nn.Module):
    """Two parameters of value 0."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(torch.zeros(()))

    def loss(self) -> torch.Tensor:
        """Its gradient is (3, 4)."""
        return 3 * self.a + 4 * self.b

    def values(self) -> list[float]:
        return [self.a.item(), self.b.item()]


def sgd_config(*clipping: object) -> CfgNode:
    """Plain gradient descent with step 1; CLIP_TYPE and CLIP_VALUE as given."""
    opts = zip(("CLIP_TYPE", "CLIP_VALUE"), clipping, strict=False)
    cfg = config("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 1.0, "SOLVER.MOMENTUM", 0.0)
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = bool(clipping)
    merge_opts(cfg, [str(x) for k, v in opts for x in (f"SOLVER.CLIP_GRADIENTS.{k}", v)])
    return cfg


@pytest.mark.parametrize(
    ("clipping", "expected"),
    [
        ((), [-3, -4]),
        (("full_model", 1.0), [-0.6, -0.8]),  # the norm of (3, 4) is 5
        (("full_model", 10.0), [-3, -4]),
        (("full_model", 0.0), [-3, -4]),
        (("norm", 1.0), [-1, -1]),  # each by itself
        (("value", 3.5), [-3, -3.5]),
    ],
)
@pytest.mark.parametrize("norm_type", [2.0, 1.0])
def test_clipping(clipping, expected, norm_type):
    model, cfg = TwoNumbers(), sgd_config(*clipping)
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = norm_type  # not read for the full model
    optimizer = build_optimizer(cfg, model)
    model.loss().backward()
    optimizer.step()
    assert model.values() == pytest.approx(expected, abs=1e-5)


def test_clipping_sees_gradients_that_are_no_longer_scaled():
    model = TwoNumbers()
    optimizer = build_optimizer(sgd_config("full_model", 1.0), model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model.loss()).backward()
    scaler.step(optimizer)
    assert model.values() == pytest.approx([-0.6, -0.8], abs=1e-5)


def test_clipping_gives_the_loss_of_a_closure():
    model = TwoNumbers()
    optimizer = build_optimizer(sgd_config("full_model", 1.0), model)
    assert optimizer.step(lambda: torch.tensor(7.0)) == 7.0


def schedule(max_iter: int, *opts: object) -> tuple[torch.optim.Optimizer, object]:
    """An optimizer with base learning rate 6e-5, and the poly schedule of its configuration."""
    cfg = config("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.MAX_ITER", max_iter, *opts)
    cfg.SOLVER.BASE_LR = 6e-5
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    return optimizer, build_lr_scheduler(cfg, optimizer)


def rate_at(iteration: int, scheduler) -> float:
    scheduler.last_epoch = iteration - 1
    scheduler.step()
    return scheduler.optimizer.param_groups[0]["lr"]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, 6e-11),
        (1, 4.00597e-8),
        (750, 2.987344e-5),
        (1500, 5.949351e-5),
        (80_000, 3.215320e-5),
        (159_999, 1.24292e-9),
        (160_000, 0.0),
        (160_001, 0.0),
        (500_000, 0.0),
    ],
)
def test_poly_schedule(iteration, expected):
    _, scheduler = schedule(160_000, "SOLVER.WARMUP_FACTOR", "1e-6", "SOLVER.WARMUP_ITERS", 1500)
    assert rate_at(iteration, scheduler) == pytest.approx(expected, rel=5e-6)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("iteration", [9, 10, 11])
def test_constant_ending(iteration):
    opts = ("SOLVER.WARMUP_ITERS", 0, "SOLVER.POLY_LR_CONSTANT_ENDING", 0.5)
    _, scheduler = schedule(10, *opts)
    assert rate_at(iteration, scheduler) == pytest.approx(3e-5)


@pytest.mark.parametrize("writer", ["ours", "Detectron2's"])
def test_resuming_with_a_longer_schedule(writer):
    optimizer, scheduler = schedule(10, "SOLVER.WARMUP_ITERS", 0)
    if writer == "Detectron2's":
        scheduler = WarmupPolyLR(optimizer, 10, warmup_iters=0)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    resumed_optimizer, resumed = schedule(40, "SOLVER.WARMUP_ITERS", 0)
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    resumed_optimizer.step()
    resumed.step()
    rate = resumed_optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(6e-5 * (1 - 11 / 40) ** 0.9)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_other_schedules_are_detectron2s():
    cfg = config("SOLVER.BASE_LR", 1.0, "SOLVER.WARMUP_ITERS", 0, "SOLVER.MAX_ITER", 20)
    cfg.SOLVER.STEPS = (10,)
    scheduler = build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(1, 1)))
    assert [rate_at(t, scheduler) for t in (9, 10)] == pytest.approx([1.0, 0.1])


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_agrees_with_the_original(golden):
    original = json.loads((golden / "optimizer" / "ade20k-R50.json").read_text())
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, str(CONFIGS / original["config"]))
    merge_opts(cfg, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [
        [names[g["params"][0]], pytest.approx(g["lr"]), g["weight_decay"], len(g["params"])]
        for g in optimizer.param_groups
    ]
    assert groups == original["groups_name_lr_wd_n"]
    assert all(tuple(original["defaults"]["betas"]) == g["betas"] for g in optimizer.param_groups)
    assert {g["eps"] for g in optimizer.param_groups} == {original["defaults"]["eps"]}
    scheduler = build_lr_scheduler(cfg, optimizer)
    for iteration, multiplier in original["lr_multiplier_at"].items():
        rate = rate_at(int(iteration), scheduler)  # of the first group, a backbone's
        assert rate == pytest.approx(1e-5 * multiplier, rel=1e-9)
