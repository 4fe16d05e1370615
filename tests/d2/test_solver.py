"""Parameter groups, clipping and schedules, by hand and against the original's numbers."""

import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from torch import nn

from mask_former.d2.build.model import build_model
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.configuring.merging import merge_opts, merge_yaml
from mask_former.d2.errors import InputError
from mask_former.d2.solver import (
    build_lr_scheduler,
    build_optimizer,
    changed_settings,
    check_optimizer_state,
    check_solver,
    mixed_precision,
    settings_kept,
)

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


@pytest.mark.parametrize("clipping", ["full_model", "norm"])
def test_clipping_of_fused_steps_sees_gradients_that_are_no_longer_scaled(clipping):
    """Also in the loop of somebody else, who leaves it to the scaler to unscale."""
    model, cfg = TwoNumbers(), sgd_config(clipping, 100.0)
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    optimizer = build_optimizer(cfg, model)
    assert optimizer.defaults["fused"]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model.loss()).backward()
    scaler.step(optimizer)
    assert [model.a.grad.item(), model.b.grad.item()] == [3, 4]


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        ((), None),
        (("SOLVER.AMP.DTYPE", "int8"), None),  # nothing reads it
        (("SOLVER.AMP.ENABLED", True), torch.float16),
        (("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"), torch.bfloat16),
    ],
)
def test_mixed_precision(opts, expected):
    assert mixed_precision(config(*opts)) == expected


def test_unknown_precision():
    with pytest.raises(InputError, match=r"AMP\.DTYPE is 'int8'; give float16 or bfloat16"):
        check_solver(config("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "int8"))


class Convolution(nn.Module):
    """Whose weight and gradient are in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        self.images = torch.randn(5, 2, 3, 6, 6)

    def steps(self, optimizer: torch.optim.Optimizer, iterations: range) -> torch.Tensor:
        """The weight after some iterations."""
        for i in iterations:
            optimizer.zero_grad()
            self.conv(self.images[i]).square().mean().backward()
            optimizer.step()
        return self.conv.weight.detach().clone()


def plain_adamw(model: nn.Module) -> torch.optim.Optimizer:
    """As the fused one, but from torch alone and not fused."""
    groups = [{"params": [parameter]} for parameter in model.parameters()]
    return torch.optim.AdamW(groups, 0.1, weight_decay=0.05, fused=False)


def fused_adamw(model: nn.Module) -> torch.optim.Optimizer:
    cfg = config("SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.05)
    return build_optimizer(cfg, model)


def aged(state: dict) -> dict:
    """As torch 1.9 and other layouts wrote it: whole steps, no implementation, plain strides."""
    groups = [
        {k: v for k, v in group.items() if k not in ("fused", "foreach")}
        for group in state["param_groups"]
    ]
    moments = {
        index: {"step": int(entry["step"])}
        | {name: entry[name].contiguous() for name in ("exp_avg", "exp_avg_sq")}
        for index, entry in state["state"].items()
    }
    return {"state": moments, "param_groups": groups}


@pytest.mark.parametrize("writer", [plain_adamw, fused_adamw])
@pytest.mark.parametrize("reader", [plain_adamw, fused_adamw])
@pytest.mark.parametrize("age", [dict, aged])
def test_states_of_fused_and_plain_steps_are_alike(writer, reader, age):
    whole, first, second = Convolution(), Convolution(), Convolution()
    expected = whole.steps(plain_adamw(whole), range(5))
    optimizer = writer(first)
    first.steps(optimizer, range(3))
    state = age(optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    resumed = reader(second)
    resumed.load_state_dict(state)
    if reader is fused_adamw:
        assert all(group["fused"] for group in resumed.param_groups)
        weights = second.steps(resumed, range(3, 5))
        torch.testing.assert_close(weights, expected)
    elif age is dict:
        weights = second.steps(resumed, range(3, 5))
        torch.testing.assert_close(weights, expected)
    else:
        # torch's own reader takes them too.
        assert all(float(entry["step"]) == 3 for entry in resumed.state.values())


def test_it_is_not_fused_where_torch_cannot():
    model = Model().to("meta")
    assert build_optimizer(config(), model).defaults["fused"] is None


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


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("SOLVER.IMS_PER_BATCH", 0, "a whole number from 1 to 100000"),
        ("SOLVER.CHECKPOINT_PERIOD", 0, "a whole number of 1 or more"),
        ("SOLVER.MAX_ITER", -1, "a whole number of 0 or more"),
        ("SOLVER.WARMUP_ITERS", -1, "a whole number of 0 or more"),
        ("SOLVER.WEIGHT_DECAY", -0.1, "a number of 0 or more"),
        ("SOLVER.MOMENTUM", 1.5, "a number from 0 to 1"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", -1.0, "a number of 0 or more"),
        ("SEED", 2**40, "a whole number of 4294967295 or less"),
        ("SOLVER.OPTIMIZER", "adamw", "ADAMW or SGD; did you mean ADAMW?"),
        ("SOLVER.LR_SCHEDULER_NAME", "Poly", "WarmupPolyLR, WarmupMultiStepLR or WarmupCosineLR"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all", "full_model, norm or value"),
    ],
)
def test_what_no_run_can_be_trained_with(key, value, allowed):
    check_solver(config())
    with pytest.raises(InputError) as caught:
        check_solver(config(key, value))
    assert str(caught.value) == f"{key} is {value!r}; give {allowed}"


def test_no_number_at_all():
    cfg = config()
    cfg.SOLVER.BASE_LR = float("nan")
    with pytest.raises(InputError, match=r"SOLVER\.BASE_LR is nan; give a number of 0 or more"):
        check_solver(cfg)


def test_a_batch_that_processes_cannot_share(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    with pytest.raises(InputError, match="IMS_PER_BATCH is 16, which 3 processes cannot share"):
        check_solver(config())


@pytest.mark.parametrize(
    ("key", "value"), [("NESTEROV", True), ("BIAS_LR_FACTOR", 2.0), ("WEIGHT_DECAY_BIAS", 0.1)]
)
def test_keys_without_effect_are_named(caplog, monkeypatch, key, value):
    monkeypatch.setattr(logging.getLogger("mask_former"), "propagate", True)
    check_solver(config(f"SOLVER.{key}", value))
    assert caplog.messages == [
        f"SOLVER.{key} is {value!r}, which has no effect, as in the published models' trainer"
    ]


def stepped(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    optimizer = build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_the_state_of_another_optimizer():
    adamw, sgd = config(), config("SOLVER.OPTIMIZER", "SGD")
    state = stepped(adamw, nn.Linear(2, 3)).state_dict()
    check_optimizer_state(build_optimizer(adamw, nn.Linear(2, 3)), state)
    with pytest.raises(InputError, match=r"trained with ADAMW, but SOLVER\.OPTIMIZER is SGD"):
        check_optimizer_state(build_optimizer(sgd, nn.Linear(2, 3)), state)
    with pytest.raises(InputError, match="trains 2 parameters, the configuration 1"):
        check_optimizer_state(build_optimizer(adamw, nn.Linear(2, 3, bias=False)), state)
    with pytest.raises(InputError, match=r"parameter 0 is \(3, 2\) in the checkpoint"):
        check_optimizer_state(build_optimizer(adamw, nn.Linear(1, 3)), state)


def test_settings_of_the_configuration_hold():
    optimizer, scheduler = schedule(10, "SOLVER.WARMUP_ITERS", 0)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    other, longer = schedule(20, "SOLVER.WARMUP_ITERS", 0, "SOLVER.WEIGHT_DECAY", 0.5)
    with settings_kept(other, longer):
        other.load_state_dict(optimizer.state_dict())
        longer.load_state_dict(scheduler.state_dict())
    assert other.param_groups[0]["lr"] == pytest.approx(6e-5 * 0.5**0.9)
    assert other.param_groups[0]["weight_decay"] == 0.5


def test_the_table_of_changed_settings():
    before = config("SOLVER.BASE_LR", 0.5, "SOLVER.STEPS", "(3, 4)")
    assert changed_settings(before.SOLVER.dump(), before.SOLVER) == ""
    after = config("SOLVER.BASE_LR", 0.25, "SOLVER.STEPS", "(3, 4)", "SOLVER.MAX_ITER", 7)
    rows = changed_settings(before.SOLVER.dump(), after.SOLVER).splitlines()[2:]
    assert sorted(row.split() for row in rows) == [
        ["SOLVER.BASE_LR", "0.5", "0.25"],
        ["SOLVER.MAX_ITER", "40000", "7"],
    ]
    assert changed_settings("{}", after.SOLVER) == ""
