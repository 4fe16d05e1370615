"""What the parts of a training step cost: ``python -m benchmarks.steps FILE CASE``, or by torchrun.

A case gives other values of ``Setup``: ``queries=200``, or ``processes=2,pictures=1``. It takes
steps of our trainer on given pictures, one thread a process, and counts milliseconds of processor
time, which other work on the machine hardly changes (with CUDA: of waiting for the device); bytes
that a process sends; and the peak of live tensors, above weights, moments and the buffers of DDP.
"""

import functools
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from benchmarks.criterion import Shape
from benchmarks.measure import Row, device, peak_mib
from benchmarks.training import config, training_inputs
from mask_former.d2.allocation import keep_freed_memory
from mask_former.d2.build.model import build_model
from mask_former.d2.run.accumulation import AccumulatingTrainer, unwrapped
from mask_former.d2.run.processes import distributed, is_one_of_several, join_group
from mask_former.d2.solver import build_optimizer
from mask_former.functional import matching

ROUNDS = 3
PARTS = (
    *("backbone", "pixel decoder", "transformer decoder", "matching costs", "assignment"),
    *("losses", "backward", "optimizer", "rest"),
)


class Setup(NamedTuple):
    """A step of the paper's model for ADE20K, but for the backbone and the size of pictures."""

    model: str = "tiny"
    size: int = 256
    pictures: int = 2  # of each process
    queries: int = 100
    classes: int = 150
    segments: int = 10
    processes: int = 1


def setup_named(case: str) -> Setup:
    """The setup with the values that a case gives."""
    given = dict(pair.split("=") for pair in case.split(","))
    return Setup(given.pop("model", "tiny"), **{k: int(v) for k, v in given.items()})


def name_of(setup: Setup) -> str:
    """Its values that are not the usual ones, or its pictures."""
    pairs = zip(Setup._fields, setup, Setup(), strict=True)
    return ",".join(f"{k}={x}" for k, x, usual in pairs if x != usual) or "pictures=2"


class Clock(defaultdict[str, float]):
    """Seconds of each part; what a part does within another counts for the inner one alone."""

    _within = 0.0

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, counted as a part."""

        @functools.wraps(work)
        def counted(*args: Any, **options: Any) -> Any:
            outer, self._within, start = self._within, 0.0, now()
            result = work(*args, **options)
            seconds = now() - start
            self[part] += seconds - self._within
            self._within = outer + seconds
            return result

        return counted


def now() -> float:
    """Seconds of processor time of all threads; with CUDA of the wall, the device at rest."""
    if device().type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def sent() -> int:
    """Bytes that the process has written, to sockets above all."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(lines[1].removeprefix("wchar: "))


def build(setup: Setup) -> AccumulatingTrainer:
    """A trainer that gets the same batch again and again."""
    cfg = config("ade20k")
    if setup.model == "tiny":
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.NORM = "build_tiny_resnet_backbone", "BN"
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = setup.classes, 65535
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = setup.queries
    torch.manual_seed(comm.get_rank())
    sizes = setup.pictures, setup.size, setup.size, setup.segments, setup.classes
    inputs = training_inputs(Shape(*sizes))
    torch.manual_seed(0)
    model = build_model(cfg).train()
    loader, optimizer = [inputs] * (ROUNDS + 2), build_optimizer(cfg, model)
    trainer = AccumulatingTrainer(distributed(model), loader, optimizer)
    trainer.iter = 0
    return trainer


def measure(setup: Setup) -> Row:
    """What a step costs a process, the mean of all."""
    torch.set_num_threads(1)
    keep_freed_memory()
    trainer, clock = build(setup), Clock(float)
    model: Any = unwrapped(trainer.model)
    head, criterion = model.sem_seg_head, model.criterion
    places: Sequence[tuple[Any, str]] = (
        *((model.backbone, "forward"), (head, "forward"), (head.predictor, "forward")),
        *((criterion, "matcher"), (matching, "linear_sum_assignment"), (criterion, "forward")),
        *((trainer, "_backward"), (trainer, "_update"), (trainer, "run_step")),
    )
    with ExitStack() as stack:
        stack.enter_context(EventStorage())
        for part, (owner, name) in zip(PARTS, places, strict=True):
            work = clock.timed(part, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, work))
        trainer.run_step()  # does not count
        rounds = []
        for _ in range(ROUNDS):
            clock.clear()
            before = sent()
            trainer.run_step()
            rounds.append(
                {p: 1000 * clock[p] for p in PARTS} | {"MB sent": (sent() - before) / 1e6}
            )
        row = {key: statistics.median(found[key] for found in rounds) for key in rounds[0]}
        trainer.optimizer.zero_grad()
        row["live MiB"] = peak_mib(trainer.run_step)
    parameters = sum(x.numel() for x in model.parameters() if x.requires_grad)
    row["parameters"] = parameters
    if setup.processes > 1:
        gradients, start = torch.zeros(parameters, device=device()), now()
        dist.all_reduce(gradients)
        row["all-reduce"] = 1000 * (now() - start)
    rows = comm.all_gather(row)
    return {key: statistics.fmean(found[key] for found in rows) for key in row}


def main(file: Path, case: str) -> None:
    """One process of a case; the first writes the figures."""
    if is_one_of_several():
        join_group(use_cuda=device().type == "cuda")
    row = measure(setup_named(case))
    if comm.is_main_process():
        file.write_text(json.dumps(row, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
