"""One step of the optimizer for a batch that may go through the model in parts.

The parts are padded as the whole batch is, and their losses are divided by what the whole batch
counts, so that the gradients of the parts add up to that of the whole.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError
from .processes import average_statistics
from .randomness import random_states, set_random_states

Sample = dict[str, Any]
_REMEDY = "give smaller pictures (INPUT.CROP.SIZE, INPUT.MIN_SIZE_TRAIN), SOLVER.AMP.ENABLED, or "
_logger = logging.getLogger(__name__)


class Undo:
    """What the forward of a step changes: random states, and the running statistics of norms."""

    def __init__(self, model: nn.Module) -> None:
        """Keeps a copy.

        Args:
            model: that trains.
        """
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._statistics = [(buffer, buffer.clone()) for buffer in buffers]
        self._states = random_states()

    def statistics(self) -> None:
        """Puts the running statistics back."""
        for buffer, before in self._statistics:
            buffer.copy_(before)

    def all(self) -> None:
        """Puts everything back."""
        self.statistics()
        set_random_states(self._states)


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's loop, whose batch may be taken apart, and is where the memory does not suffice.

    Several processes agree on it before they share their gradients.
    """

    parts = 1
    """In which a batch goes through the model."""
    undo: Undo | None = None
    """Of the step that is not complete."""
    losses: dict[str, torch.Tensor] = {}  # noqa: RUF012  # replaced, never changed
    """Of the last step, weighted, by name."""
    _agreed = False

    def run_step(self) -> None:
        """One step of the optimizer.

        Raises:
            InputError: the memory of the device does not suffice, in whatever parts.
        """
        assert self.model.training, "model was changed to eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.undo = Undo(self.model)
        while problem := self._out_of_memory(data):
            self.undo.all()
            self._split_further(data, problem)
        self._write_metrics(self.losses, data_time)  # and an error where a loss is not finite
        average_statistics(self.model)
        self._update()

    def _out_of_memory(self, data: list[Sample]) -> str:
        """Sums up the gradients of a batch; in this or another process, why it could not."""
        self.optimizer.zero_grad()
        self.losses, self._agreed = {}, False
        try:
            self._forward_and_backward(data)
        except torch.OutOfMemoryError as error:
            problem = str(error).partition("\n")[0]
        else:
            return ""
        # Outside of the clause, whose error holds on to the tensors of the step.
        self.optimizer.zero_grad()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if comm.get_world_size() > 1 and not self._agreed:
            self._require_agreement(problem)
            comm.all_gather(False)
        elif comm.get_world_size() > 1 and problem != _ELSEWHERE:
            raise InputError(
                f"out of memory as the processes shared their gradients ({problem}); give "
                f"SOLVER.ACCUMULATE {2 * self.parts}, then go on with --resume"
            )
        return problem

    def _forward_and_backward(self, data: list[Sample]) -> None:
        model = unwrapped(self.model)
        parts = split(pad_together(data, model), self.parts) if self.parts > 1 else [data]
        several = comm.get_world_size() > 1
        with whole_batch(model, data) if several or len(parts) > 1 else nullcontext():
            for part in parts:
                is_last = part is parts[-1]
                with nullcontext() if is_last else _unshared(self.model):
                    agreeing = self._agreement(model) if is_last and several else nullcontext()
                    with agreeing, self._precision():
                        losses = self.model(part)
                    if isinstance(losses, torch.Tensor):
                        losses = {"total_loss": losses}
                    for name, loss in losses.items():
                        self.losses[name] = self.losses.get(name, 0) + loss.detach()
                    self._backward(sum(losses.values()))

    @contextmanager
    def _agreement(self, model: nn.Module) -> Iterator[None]:
        """Has a forward wait for all processes to have the memory.

        Within the forward, for after it DDP shares the gradients of whatever backward is next.
        """

        def agree(*forward: Any) -> None:
            well = all(comm.all_gather(True))
            self._agreed = True
            if not well:
                raise torch.OutOfMemoryError(_ELSEWHERE)

        handle = model.register_forward_hook(agree)
        try:
            yield
        finally:
            handle.remove()

    def _require_agreement(self, problem: str) -> None:
        """Synchronised norms have the other processes wait where this one will not come."""
        if any(isinstance(m, nn.SyncBatchNorm) for m in self.model.modules()):
            raise InputError(
                f"out of memory ({problem}), of which SyncBN lets the processes not agree; give "
                f"SOLVER.ACCUMULATE {2 * self.parts}, then go on with --resume"
            )

    def _split_further(self, data: list[Sample], problem: str) -> None:
        if counter(unwrapped(self.model)) is None:
            raise InputError(
                f"out of memory ({problem}), and the losses of this model cannot be counted over "
                f"a batch in parts (SOLVER.ACCUMULATE); {_REMEDY}SOLVER.IMS_PER_BATCH"
            )
        if self.parts >= len(data):
            raise InputError(
                f"out of memory with one picture at a time ({problem}), so SOLVER.ACCUMULATE does "
                f"not help; {_REMEDY}MODEL.RESNETS.USE_CHECKPOINT or MODEL.SWIN.USE_CHECKPOINT"
            )
        self.parts *= 2
        _logger.warning(
            "Out of memory (%s): the step is repeated, and from here on a batch goes through the "
            "model in %d parts, as with SOLVER.ACCUMULATE %d",
            problem,
            self.parts,
            self.parts,
        )

    def _precision(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def _update(self) -> None:
        self.optimizer.step()


_ELSEWHERE = "in another process"


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself of one that several processes train."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _unshared(model: nn.Module) -> AbstractContextManager[Any]:
    """Gradients stay with the process, which shares the sum."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def split(batch: list[Sample], parts: int) -> list[list[Sample]]:
    """A batch in parts of nearly one size, the larger first; none is empty."""
    parts = min(parts, len(batch))
    size, larger = divmod(len(batch), parts)
    ends = [(i + 1) * size + min(i + 1, larger) for i in range(parts)]
    return [batch[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def pad_together(batch: list[Sample], model: Any) -> list[Sample]:
    """The samples with images of one size, which the model sees as it sees those of the batch.

    Args:
        batch: images [3, H, W] in 0..255, padded right and bottom with the mean colour, which is
            zero for the model; and label maps [H, W], padded with the ignored label.
        model: with ``pixel_mean`` [3, 1, 1].
    """
    sizes = [sample["image"].shape[-2:] for sample in batch]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    if all(size == (height, width) for size in sizes):
        return batch
    mean = model.pixel_mean.cpu()
    padded = []
    for sample, (own_height, own_width) in zip(batch, sizes, strict=True):
        image = mean.expand(-1, height, width).clone()
        image[:, :own_height, :own_width] = sample["image"]
        sample = {"image_size": (own_height, own_width), **sample, "image": image}
        if "sem_seg" in sample:
            margins = (0, width - own_width, 0, height - own_height)
            ignored = getattr(model.sem_seg_head, "ignore_value", 255)
            sample["sem_seg"] = F.pad(sample["sem_seg"], margins, value=ignored)
        padded.append(sample)
    return padded


def counter(model: Any) -> Any:
    """The module that can count over a whole batch of which it sees a part; None: there is none."""
    modules = [getattr(model, name, None) for name in ("criterion", "sem_seg_head")]
    return next((module for module in modules if hasattr(module, "whole_batch")), None)


@contextmanager
def whole_batch(model: Any, batch: Sequence[Sample]) -> Iterator[None]:
    """Has the losses of a part divided by what the batches of all processes count.

    Args:
        model: whose criterion counts labels, or whose head counts pixels.
        batch: of this process.
    """
    with _counted(model, batch, lambda counts: [*chain(*comm.all_gather(counts))]):
        yield


@contextmanager
def local_counts(model: Any, batch: Sequence[Sample]) -> Iterator[None]:
    """Has losses divided by what a batch counts, whatever other processes do meanwhile."""
    with _counted(model, batch, lambda counts: comm.get_world_size() * counts):
        yield


@contextmanager
def _counted(
    model: Any, batch: Sequence[Sample], of_all: Callable[[list[Any]], list[Any]]
) -> Iterator[None]:
    part = counter(model)
    is_criterion = part is not None and part is getattr(model, "criterion", None)
    key = "instances" if is_criterion else "sem_seg"
    if part is None or any(key not in sample for sample in batch):  # the model will say so
        yield
        return
    if is_criterion:
        counts = [sample["instances"].gt_classes.long() for sample in batch]
    else:
        counts = [int((sample["sem_seg"] != part.ignore_value).sum()) for sample in batch]
    part.whole_batch = of_all(counts)
    try:
        yield
    finally:
        part.whole_batch = None


def check_parts(model: nn.Module, parts: int) -> None:
    """Refuses to take a batch apart whose losses cannot be counted so.

    Args:
        model: that is to train.
        parts: ``SOLVER.ACCUMULATE``.
    """
    if parts == 1:
        return
    if counter(model) is None:
        raise InputError(
            f"SOLVER.ACCUMULATE is {parts}, but the criterion or head of "
            f"{type(model).__name__} has no `whole_batch`, by which its losses would be counted "
            "over all parts; set it to 1"
        )
    _logger.info(
        "A batch goes through the model in %d parts, whose gradients are those of the whole but "
        "for dropout and for batch norms in training, which see a part at a time",
        parts,
    )
