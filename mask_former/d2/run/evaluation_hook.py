"""Evaluation in the course of a run: the best checkpoint so far, and an end that comes early."""

import logging
import math
from collections.abc import Callable
from typing import Any

from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm

from ..errors import InputError
from .interruption import Stopped

_LOSSES = ("validation/", "total_loss", "loss")  # ours, and Detectron2's of the training
_logger = logging.getLogger(__name__)


class NoImprovement(Stopped):
    """The metric has not improved for as many evaluations as ``TEST.PATIENCE`` allows."""

    def __init__(self, text: str) -> None:
        """All processes stop after the same iteration.

        Args:
            text: what has been tried.
        """
        KeyboardInterrupt.__init__(self, text)
        self.number, self.together = 0, True


class Evaluation(EvalHook):
    """Detectron2's hook, which also keeps the best checkpoint and may end the run.

    What it has seen of a metric is part of the checkpoint. Where a run ended between a checkpoint
    and the evaluation of the same iteration, the run that goes on makes up for it.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], dict[str, Any]],
        metric: str = "",
        patience: int = 0,
    ) -> None:
        """Has seen no evaluation yet.

        Args:
            period: in iterations; 0: after the last one only.
            evaluate: gives results, in the main process at least.
            metric: name of the result whose best checkpoint is kept, as ``sem_seg/mIoU``; the
                least is the best of a loss, else the greatest. Empty: none is kept.
            patience: evaluations without a better one after which the run ends; 0: it does not.
        """
        super().__init__(period, evaluate)
        self._metric, self._patience = metric, patience
        self._sign = -1 if metric.startswith(_LOSSES) else 1
        self._seen: dict[str, Any] = {
            "metric": metric,
            "evaluated": -1,
            "best": -math.inf,
            "at": -1,
            "since": 0,
        }

    def before_train(self) -> None:
        """Makes up for what was missed.

        Raises:
            NoImprovement: the run had ended.
        """
        start = self.trainer.start_iter
        was_time = self._period > 0 and start % self._period == 0 and start > 0
        is_missing = was_time and self._seen["evaluated"] != start - 1
        if self._metric and is_missing and start < self.trainer.max_iter:
            _logger.info("Evaluating iteration %d, which the run before did not", start - 1)
            self.trainer.storage.iter = self.trainer.iter = start - 1
            self._do_eval()
            self.trainer.storage.iter = self.trainer.iter = start
        self._end_if_no_better()

    def after_step(self) -> None:
        """Evaluates where it is time.

        Raises:
            NoImprovement: the patience is at its end.
        """
        super().after_step()
        if self._seen["evaluated"] == self.trainer.iter:
            self._end_if_no_better()

    def _do_eval(self) -> None:
        super()._do_eval()
        if self._metric:
            self._judge()

    def _judge(self) -> None:
        """All processes come to the same, though the first alone has results."""
        latest = self.trainer.storage.latest().get(self._metric)
        value = comm.all_gather(None if latest is None else latest[0])[0]
        if value is None:
            known = sorted(name for name in self.trainer.storage.latest() if "/" in name)
            raise InputError(
                f"TEST.BEST_METRIC is {self._metric!r}, which the evaluation does not give; it "
                f"gives {', '.join(known) or 'nothing'}"
            )
        iteration = min(self.trainer.iter, self.trainer.max_iter - 1)
        self._seen["evaluated"] = iteration
        self._seen["since"] += 1
        if self._sign * value > self._seen["best"]:
            self._seen.update(best=self._sign * value, at=iteration, since=0)
            _logger.info("The best %s so far: %.4f, saved as model_best", self._metric, value)
            if comm.is_main_process():
                self._save(iteration)

    def _save(self, iteration: int) -> None:
        after, self.trainer.iter = self.trainer.iter, iteration  # one more after the last
        self.trainer.checkpointer.save("model_best", iteration=iteration)
        self.trainer.iter = after

    def _end_if_no_better(self) -> None:
        if 0 < self._patience <= self._seen["since"]:
            raise NoImprovement(
                f"{self._metric} has not improved in {self._seen['since']} evaluations "
                f"(TEST.PATIENCE); the best is {self._sign * self._seen['best']:.4f} of iteration "
                f"{self._seen['at']}, in model_best.pth"
            )

    def state_dict(self) -> dict[str, Any]:
        """What it has seen."""
        return dict(self._seen) if self._metric else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what a run had seen; of another metric that says nothing."""
        before = state_dict.get("metric", self._metric)  # which older checkpoints do not name
        if before == self._metric:
            self._seen.update(state_dict)
        elif self._metric:
            _logger.info("TEST.BEST_METRIC was %s: %s starts anew", before, self._metric)
            self._seen["evaluated"] = state_dict["evaluated"]
