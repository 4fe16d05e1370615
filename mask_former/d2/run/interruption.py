"""What becomes of a run that ends before its time: by a signal, a fault, or because it diverges."""

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..checkpoint import Diverged
from .files import remove_old_checkpoints
from .processes import launched_by_torchrun
from .terminal import command_to_resume

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_logger = logging.getLogger(__name__)


class Stopped(KeyboardInterrupt):
    """A signal has ended the run, in which nothing is wrong."""

    def __init__(self, number: int, *, together: bool = False) -> None:
        """Keeps which signal it was.

        Args:
            number: of the signal.
            together: all processes stop after the same iteration.
        """
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
        self.together = together


class StopOnSignal(HookBase):
    """Ends the run at TERM, INT or USR1: after the iteration, in which all processes agree.

    Outside of an iteration, as in an evaluation, it ends at once. Loader processes are started
    within an iteration and inherit the handler, so that they go on serving until its end. A
    launcher that was killed counts as TERM.
    """

    def __init__(self) -> None:
        """Waits for the training to begin."""
        self.number = 0
        self._in_step = False
        self._launcher = os.getppid() if launched_by_torchrun() else None
        self._former: dict[int, Any] = {}

    def before_train(self) -> None:
        """Takes the signals, which only the main thread can.

        Under submitit, which has handlers of its own, its signal to end is taken as well, until the
        iteration is saved; and TERM is left to it, which comes before a signal to end.
        """
        signals = _SIGNALS
        if callable(signal.getsignal(signal.SIGUSR2)):
            signals = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in signals}

    def before_step(self) -> None:
        """From here on a signal waits."""
        self._in_step = True

    def after_step(self) -> None:
        """Ends the run if any process has been told to.

        Raises:
            Stopped: a signal came; not after the last iteration, whose weights are yet to be saved.
        """
        self._in_step = False
        if self._launcher not in (None, os.getppid()):
            self.number = self.number or signal.SIGTERM  # or this would go on beside the next run
        self.number = max(comm.all_gather(self.number))
        if self.number and self.trainer.iter + 1 < self.trainer.max_iter:
            raise Stopped(self.number, together=True)

    def after_train(self) -> None:
        """Gives the signals back; a final evaluation is left out if one came.

        Raises:
            Stopped: a signal came in the last iteration.
        """
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
        if self.number and sys.exception() is None:
            stopped = Stopped(self.number)
            stopped.add_note("training is complete; --eval-only evaluates it")
            raise stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_first = not self.number
        self.number = self.number or number
        if is_first and not self._in_step:
            raise Stopped(number)


class CheckpointOnFailure(HookBase):
    """Saves a checkpoint when an exception or a signal ends the training.

    It stands behind the hook of the schedule: an iteration is complete when the optimizer and the
    schedule have made their step. One that is not complete is run again by ``--resume``, and the
    running statistics of norms forget it.
    """

    def __init__(self) -> None:
        """Has seen no iteration yet."""
        self._complete = -1

    def after_step(self) -> None:
        """One more iteration is complete."""
        self._complete = self.trainer.iter
        self.trainer._trainer.undo = None

    def after_train(self) -> None:
        """Called after a failure too; then the trainer has not reached ``max_iter``."""
        failed = self.trainer.iter
        if failed >= self.trainer.max_iter:
            return
        if undo := self.trainer._trainer.undo:
            undo.statistics()
        complete = max(self._complete, self.trainer.start_iter - 1)
        # What is saved; it also keeps Detectron2 from evaluating after a failed last iteration.
        self.trainer.iter = complete
        error = sys.exception()
        checkpointer = self.trainer.checkpointer
        together = isinstance(error, Stopped) and error.together
        if self._complete >= 0 and not isinstance(error, Diverged):
            # Any process may be the one that fails, and all hold the same weights.
            checkpointer.save_to_disk = comm.is_main_process() or not together
            checkpointer.save(f"model_interrupted_rank{comm.get_rank()}")
        if together:
            comm.synchronize()  # a launcher ends all when one has ended
        _tell(error, failed, checkpointer.last_iteration())


class KeepLast(HookBase):
    """Takes away numbered checkpoints but the last, behind the hook that writes them."""

    def __init__(self, period: int, kept: int) -> None:
        """Does nothing where all are kept.

        Args:
            period: in which checkpoints are written, in iterations.
            kept: how many stay; 0: all.
        """
        self._period, self._kept = period, kept

    def after_step(self) -> None:
        """After a new one has been written."""
        is_time = (self.trainer.iter + 1) % self._period == 0
        if (
            self._kept
            and is_time
            and comm.is_main_process()
            and not self.trainer.checkpointer.unsaved
        ):
            remove_old_checkpoints(self.trainer.checkpointer.save_dir, self._kept)


def _tell(error: BaseException | None, failed: int, saved: int | None) -> None:
    """Adds what to do to the error, which Python and train_net.py print below all else."""
    note = f"training ended in iteration {failed}; nothing of it is saved"
    if saved is not None:
        note = f"training ended in iteration {failed}; --resume goes on at {saved + 1}:"
    _logger.debug("%s", note)
    if error is not None:
        error.add_note(note)
        if saved is not None:
            error.add_note(f"    {command_to_resume(sys.argv)}")


def describe_divergence(
    losses: dict[str, torch.Tensor], iteration: int, learning_rate: float, error: Exception
) -> str:
    """Which losses are not finite, and what to change.

    Args:
        losses: weighted, by name.
        iteration: in which they were computed.
        learning_rate: ``SOLVER.BASE_LR``.
        error: that of the step, which speaks where no loss came of it.
    """
    bad = [f"{name} is {loss.item()}" for name, loss in losses.items() if not loss.isfinite().all()]
    return (
        f"the training has diverged: in iteration {iteration} {', '.join(bad) or error}; "
        f"lower SOLVER.BASE_LR (now {learning_rate:g}), lengthen SOLVER.WARMUP_ITERS, or clip "
        "gradients (SOLVER.CLIP_GRADIENTS); --resume starts from the last good checkpoint"
    )
