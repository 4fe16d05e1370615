"""The exponential moving average of the weights (EMA), kept beside the model that trains."""

from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(HookBase):
    """Averages after each step; buffers are those of the model.

    It stands before the hook that says that an iteration is complete.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Starts with the weights after the first step that it sees.

        Args:
            model: not wrapped for distributed training, where all processes have the same weights.
            decay: the share of the average that stays after a step.
        """
        self._model = model
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def after_step(self) -> None:
        """Takes the new weights in."""
        self.averaged.update_parameters(self._model)

    def copy_buffers(self) -> None:
        """Takes those of the model, where they have changed after the step."""
        for own, new in zip(self.averaged.module.buffers(), self._model.buffers(), strict=True):
            own.copy_(new)
