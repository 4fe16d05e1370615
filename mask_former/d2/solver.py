"""The SOLVER section as an optimizer and a learning-rate schedule (paper, section 4.2)."""

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab import build_lr_scheduler as build_d2_lr_scheduler
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .configuring.checks import check_config
from .errors import InputError

_logger = logging.getLogger(__name__)
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
# Tables of Swin; decay would pull all positions together.
_UNDECAYED = ("relative_position_bias_table", "absolute_pos_embed")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, with the gradient clipping of the config.

    Args:
        cfg: the whole configuration.
        model: its trainable parameters become a group each, in the order of registration, so that
            published optimizer states fit.

    Raises:
        NotImplementedError: ``SOLVER.OPTIMIZER`` is neither ADAMW nor SGD.
    """
    solver = cfg.SOLVER
    groups = list(_parameter_groups(solver, model))
    if solver.OPTIMIZER == "ADAMW":
        return _adamw(cfg, groups)
    if solver.OPTIMIZER == "SGD":
        sgd = _with_clipping(cfg, torch.optim.SGD)
        return sgd(groups, solver.BASE_LR, momentum=solver.MOMENTUM)
    raise NotImplementedError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; give ADAMW or SGD")


# Keys of Detectron2 that the published models do not heed, and their defaults.
_UNHEEDED = {"NESTEROV": False, "BIAS_LR_FACTOR": 1.0, "WEIGHT_DECAY_BIAS": None}


def check_solver(cfg: CfgNode) -> None:
    """Refuses what no run can be trained with, and names keys that have no effect.

    Args:
        cfg: the whole configuration.

    Raises:
        InputError: with the key, the value and what is allowed.
    """
    check_config(cfg)
    needs = {  # what a key needs, and whether that is there
        "PATIENCE": ("TEST.BEST_METRIC, for example sem_seg/mIoU", cfg.TEST.BEST_METRIC),
        "BEST_METRIC": ("data sets in DATASETS.TEST", cfg.DATASETS.TEST),
        "LOSS": ("data sets in DATASETS.TEST", cfg.DATASETS.TEST),
    }
    for key, (need, is_there) in needs.items():
        if cfg.TEST[key] and not is_there:
            raise InputError(f"TEST.{key} is {cfg.TEST[key]}, which needs {need}")
    if cfg.TEST.PATIENCE and cfg.TEST.EVAL_PERIOD <= 0:
        raise InputError(
            f"TEST.PATIENCE is {cfg.TEST.PATIENCE}, which counts evaluations, but TEST.EVAL_PERIOD "
            f"{cfg.TEST.EVAL_PERIOD} has one at the end alone; give the iterations between two"
        )
    world, batch = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
    if batch % world:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH is {batch}, which {world} processes cannot share alike; give a "
            f"multiple of {world}"
        )
    for name, default in _UNHEEDED.items():
        if cfg.SOLVER[name] != default:
            _logger.warning(
                "SOLVER.%s is %r, which has no effect, as in the published models' trainer",
                name,
                cfg.SOLVER[name],
            )


def check_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Refuses a checkpoint's state of another optimizer, or of parameters of other shapes.

    Args:
        optimizer: of the configuration.
        state: of the checkpoint.

    Raises:
        InputError: torch would take it, and compute with it or reach beyond its buffers.
    """
    theirs, ours = state["param_groups"], optimizer.param_groups
    remedy = "--resume goes on with the configuration of the run, its config.yaml"
    if ("betas" in theirs[0]) != ("betas" in ours[0]):
        names = ("ADAMW", "SGD") if "betas" in theirs[0] else ("SGD", "ADAMW")
        raise InputError(
            f"the run was trained with {names[0]}, but SOLVER.OPTIMIZER is {names[1]}; {remedy}"
        )
    if len(theirs) != len(ours):
        raise InputError(
            f"the run trains {len(theirs)} parameters, the configuration {len(ours)}, as other "
            f"frozen parts give (MODEL.BACKBONE.FREEZE_AT, SOLVER.FREEZE); {remedy}"
        )
    parameters = [parameter for group in ours for parameter in group["params"]]
    for index, entries in state["state"].items():
        own = tuple(parameters[index].shape)
        for name, value in entries.items():
            if torch.is_tensor(value) and value.dim() and tuple(value.shape) != own:
                raise InputError(
                    f"{name} of parameter {index} is {tuple(value.shape)} in the checkpoint, but "
                    f"the parameter is {own}; {remedy}"
                )


@contextmanager
def settings_kept(optimizer: Optimizer, scheduler: LRScheduler) -> Iterator[None]:
    """Lets a checkpoint restore moments and progress, but not rates, decay and schedule.

    These are the configuration's, as whoever resumes with other ones means them.
    """
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    base_lrs = list(scheduler.base_lrs)
    yield
    scheduler.base_lrs = base_lrs
    scheduler._last_lr = list(scheduler.get_lr())
    for group, settings, rate in zip(
        optimizer.param_groups, groups, scheduler._last_lr, strict=True
    ):
        group.update(settings, lr=rate)


def changed_settings(before: str, solver: CfgNode) -> str:
    """A table of the settings that are no longer those of the run; empty: none.

    Args:
        before: the SOLVER section of the run, as YAML.
        solver: that of the configuration.
    """
    old, new = flat_settings(CfgNode.load_cfg(before)), flat_settings(solver)
    rows = [(key, old[key], new[key]) for key in new if key in old and old[key] != new[key]]
    return tabulate(rows, ("", "before", "from now on"), disable_numparse=True) if rows else ""


def flat_settings(node: CfgNode, prefix: str = "SOLVER.") -> dict[str, str]:
    """The keys of a section by their full names, and their values as text."""
    flat: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:  # YAML has no tuples
            flat[prefix + key] = str(list(value) if isinstance(value, tuple) else value)
    return flat


def mixed_precision(cfg: CfgNode) -> torch.dtype | None:
    """The type that ``SOLVER.AMP`` asks for; None for float32 alone."""
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    return dtypes[cfg.SOLVER.AMP.DTYPE] if cfg.SOLVER.AMP.ENABLED else None


def _adamw(cfg: CfgNode, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """Fused where torch can: with a group a parameter, ``foreach`` has nothing to bundle."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    adamw = _with_clipping(cfg, torch.optim.AdamW)
    optimizer = adamw(groups, cfg.SOLVER.BASE_LR, fused=fused or None)
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        # Or a GradScaler leaves it to the fused step to unscale, which is too late to clip.
        optimizer._step_supports_amp_scaling = False
    optimizer.register_load_state_dict_pre_hook(_computed_as_built)
    optimizer.register_load_state_dict_post_hook(_laid_out_as_parameters)
    return optimizer


def _computed_as_built(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Fused or not is this run's choice; torch would take that of the run that wrote the state."""
    ours = {name: optimizer.defaults[name] for name in ("foreach", "fused")}
    return state_dict | {"param_groups": [group | ours for group in state_dict["param_groups"]]}


def _laid_out_as_parameters(optimizer: Optimizer) -> None:
    """The fused step on a CPU pairs values by their place in memory, so channels_last matters."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)


def _parameter_groups(solver: CfgNode, model: nn.Module) -> Iterator[dict[str, Any]]:
    seen: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                factor = solver.BACKBONE_MULTIPLIER if "backbone" in path else 1.0
                yield {
                    "params": [parameter],
                    "lr": solver.BASE_LR * factor,
                    "weight_decay": _weight_decay(solver, module, name),
                }


def _weight_decay(solver: CfgNode, module: nn.Module, name: str) -> float:
    if isinstance(module, nn.Embedding):
        return solver.WEIGHT_DECAY_EMBED
    if isinstance(module, _NORMS):
        return solver.WEIGHT_DECAY_NORM
    if any(text in name for text in _UNDECAYED):
        return 0.0
    return solver.WEIGHT_DECAY


def _with_clipping(cfg: CfgNode, optimizer_class: Any) -> Any:
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if clipping.CLIP_TYPE != "full_model":
        return maybe_add_gradient_clipping(cfg, optimizer_class)
    if clipping.ENABLED and clipping.CLIP_VALUE > 0:
        return _clipping_full_model(optimizer_class, clipping.CLIP_VALUE)
    return optimizer_class


def _clipping_full_model(optimizer_class: Any, max_norm: float) -> Any:
    """An optimizer whose step first limits the L2 norm of all gradients together.

    ``CLIP_GRADIENTS.NORM_TYPE`` is not read, as published.
    """

    class FullModelClipping(optimizer_class):
        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            parameters = itertools.chain(*(group["params"] for group in self.param_groups))
            nn.utils.clip_grad_norm_(parameters, max_norm)
            return super().step(closure)

    return FullModelClipping


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The schedule that ``SOLVER.LR_SCHEDULER_NAME`` names: DeepLab's, or one of Detectron2's."""
    if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_d2_lr_scheduler(cfg, optimizer)
    return PolyLR(
        optimizer,
        cfg.SOLVER.MAX_ITER,
        warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
        warmup_iters=cfg.SOLVER.WARMUP_ITERS,
        warmup_method=cfg.SOLVER.WARMUP_METHOD,
        power=cfg.SOLVER.POLY_LR_POWER,
        constant_ending=cfg.SOLVER.POLY_LR_CONSTANT_ENDING,
    )


class PolyLR(WarmupPolyLR):
    """DeepLab's schedule, resumable with another length.

    lr(t) = base * warmup(t) * (1 - t / max_iters)^power. Two faults of Detectron2's class are
    mended: the length came back from the checkpoint, whatever the config said, and a step beyond
    it ended in "math domain error".
    """

    def get_lr(self) -> list[float]:
        """Learning rates of all groups at ``last_epoch``, which counts iterations."""
        if self.last_epoch < self.max_iters:
            return super().get_lr()
        return [base_lr * self.constant_ending for base_lr in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the progress of a run; the shape of the schedule stays the config's."""
        progress = ("last_epoch", "_step_count", "_last_lr")
        super().load_state_dict({k: v for k, v in state_dict.items() if k in progress})
