"""Short runs: whole, interrupted and resumed; and what they save."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from mask_former.d2.trainer import Trainer
from mask_former.d2.weights.reading import RECORD_KEY


class At(HookBase):
    """Does something before an iteration."""

    def __init__(self, iteration: int, action: Any) -> None:
        self.iteration, self.action = iteration, action

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            self.action(self.trainer)


def run(cfg: CfgNode, *hooks: HookBase, resume: bool = False) -> Trainer:
    trainer = Trainer(cfg)
    trainer.register_hooks(list(hooks))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def fail(trainer: Trainer) -> None:
    raise RuntimeError("on purpose")


def interrupted_after(cfg: CfgNode, iterations: int) -> None:
    """A run that fails in an iteration, after so many that are complete."""
    with pytest.raises(RuntimeError, match="on purpose"):
        run(cfg, At(iterations, fail))


def saved(folder: Path, name: str = "model_final.pth") -> dict:
    """A checkpoint but for its configuration, which names the folder and the loader processes."""
    content = torch.load(folder / "out" / name, weights_only=True)
    del content[RECORD_KEY]["config"]
    return content


def assert_equal(ours: Any, theirs: Any) -> None:
    """Bit for bit, at any depth."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        for own, other in zip(ours, theirs, strict=True):
            assert_equal(own, other)
    elif torch.is_tensor(ours):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs
