"""The training loop in mixed precision, in float16 or bfloat16, on CPU as on GPU."""

import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.train_loop import TrainerBase

from .run.accumulation import AccumulatingTrainer

_logger = logging.getLogger(__name__)


class MixedPrecisionTrainer(AccumulatingTrainer):
    """Our loop with the model under autocast.

    That of Detectron2 0.6 itself asserts CUDA and knows float16 alone. Gradients of float16 are
    scaled; where some overflow all the same, the step is left out and the scale halved.
    """

    def __init__(self, plain: SimpleTrainer, dtype: torch.dtype) -> None:
        """Goes on with another loop.

        Args:
            plain: the loop whose model, data and optimizer it takes over; the data are not begun
                a second time.
            dtype: the type of convolutions and matrix products.
        """
        TrainerBase.__init__(self)
        self.__dict__.update(vars(plain))
        self.dtype = dtype
        self.device_type = next(self.model.parameters()).device.type
        scaled = dtype == torch.float16  # bfloat16 has the range of float32
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=scaled)
        if scaled and self.device_type == "cpu":
            _logger.warning(
                "SOLVER.AMP.DTYPE float16 is many times slower than float32 on a CPU; give bfloat16"
            )

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device_type, self.dtype)

    def _backward(self, loss: torch.Tensor) -> None:
        self.grad_scaler.scale(loss).backward()

    def _update(self) -> None:
        """One step of the optimizer, or none where scaled gradients overflow."""
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Its state; the scale of the gradients, if there is one, has Detectron2's name."""
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the state of a run, whatever its precision was."""
        super().load_state_dict(state_dict)
        if not self.grad_scaler.is_enabled():
            return
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        else:
            _logger.warning("The checkpoint has no gradient scale: the scale starts anew")
