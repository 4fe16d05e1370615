"""The SOLVER section as an optimizer and a learning-rate schedule (paper, section 4.2)."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab import build_lr_scheduler as build_d2_lr_scheduler
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .errors import InputError

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


def mixed_precision(cfg: CfgNode) -> torch.dtype | None:
    """The type that ``SOLVER.AMP`` asks for; None for float32 alone.

    Raises:
        InputError: ``SOLVER.AMP.DTYPE`` is neither float16 nor bfloat16.
    """
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    amp = cfg.SOLVER.AMP
    if not amp.ENABLED:
        return None
    if amp.DTYPE not in dtypes:
        raise InputError(f"SOLVER.AMP.DTYPE is {amp.DTYPE!r}; give {' or '.join(dtypes)}")
    return dtypes[amp.DTYPE]


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
        progress = ("base_lrs", "last_epoch", "_step_count", "_last_lr")
        super().load_state_dict({k: v for k, v in state_dict.items() if k in progress})
