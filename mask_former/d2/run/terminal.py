"""What a person sees of a run; ``log.txt`` in the run's folder has everything."""

import logging
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from tabulate import tabulate
from torch import nn

from ..build.image_models import backbone_and_weights

_LIBRARIES = ("detectron2", "fvcore")
_OURS = __name__.partition(".")[0]
_LONGEST_TABLE = 40  # rows; more classes go side by side
_logger = logging.getLogger(__name__)


def open_logs(folder: str) -> None:
    """Everything goes to ``log.txt``; ours from INFO on, and warnings, to the first's terminal.

    Args:
        folder: of the run, made if it is not there. Every process but the first has a file of
            its own, ``log.txt.rankN``.
    """
    rank = comm.get_rank()
    os.makedirs(folder, exist_ok=True)
    name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
    file = logging.FileHandler(os.path.join(folder, name), encoding="utf-8")
    layout = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    file.setFormatter(logging.Formatter(layout, datefmt="%m/%d %H:%M:%S"))
    for library in (*_LIBRARIES, _OURS):
        logger = logging.getLogger(library)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        for handler in logger.handlers[:]:  # of a run before this one in the same process
            logger.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
        logger.addHandler(file)
        if rank == 0:
            logger.addHandler(Terminal())


class Terminal(logging.Handler):
    """Prints what a person can use: our own lines, and what others warn of."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints the message alone; Python prints tracebacks itself, when all else is said."""
        level = logging.INFO if _is_for_people(record.name) else logging.WARNING
        if record.levelno >= level and not record.exc_info:
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            print(prefix + record.getMessage(), flush=True)


def _is_for_people(name: str) -> bool:
    # The mappers tell of each augmentation in one line of a thousand characters.
    ours = name.startswith(f"{_OURS}.") and ".data." not in name
    return ours or name == "detectron2.engine.train_loop"


def parameters(model: nn.Module) -> str:
    """The number of a model's parameters, and of those that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, is_trained in sizes if is_trained)
    text = f"{sum(size for size, _ in sizes) / 1e6:,.1f} million parameters"
    return (
        text
        if all(is_trained for _, is_trained in sizes)
        else f"{text}, {trained / 1e6:,.1f} trained"
    )


def summary(cfg: CfgNode, model: nn.Module, num_pictures: int | None, first: int) -> str:
    """A run in a few lines, before its first iteration.

    Args:
        cfg: the whole configuration.
        model: may be wrapped for distributed training.
        num_pictures: of the training sets; None if unknown.
        first: the iteration with which the run starts.
    """
    solver, world = cfg.SOLVER, comm.get_world_size()
    pictures = f", {num_pictures:,} pictures" if num_pictures else ""
    seen = solver.MAX_ITER * solver.IMS_PER_BATCH
    epochs = f", {seen / num_pictures:,.1f} epochs" if num_pictures else ""
    start = f", from iteration {first:,}" if first else ""
    processes = f" over {world} processes" if world > 1 else ""
    backbone, weights = backbone_and_weights(cfg.MODEL)
    rows = [
        ("model", f"{cfg.MODEL.META_ARCHITECTURE} on {backbone}, {parameters(model)}"),
        ("weights", weights or "none, from scratch"),
        ("training data", ", ".join(cfg.DATASETS.TRAIN) + pictures),
        ("test data", ", ".join(cfg.DATASETS.TEST) or "none"),
        ("batch", f"{solver.IMS_PER_BATCH} pictures{processes}"),
        ("length", f"{solver.MAX_ITER:,} iterations{epochs}{start}"),
        ("learning rate", f"{solver.BASE_LR:g}, {solver.OPTIMIZER}, {solver.LR_SCHEDULER_NAME}"),
        ("device", _device(cfg)),
        ("output", f"{cfg.OUTPUT_DIR}; log.txt has everything"),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _device(cfg: CfgNode) -> str:
    device = torch.device(cfg.MODEL.DEVICE)
    threads = torch.get_num_threads()
    name = f"{threads} thread{'s' * (threads > 1)}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    precision = cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else "float32"
    return f"{device}, {name}, {precision}"


class Progress(EventWriter):
    """One short line now and then: the losses, summed over the decoder's layers, and the time."""

    def __init__(self, max_iter: int) -> None:
        """Counts from the length of the run.

        Args:
            max_iter: the number of iterations of the whole run.
        """
        self._max_iter = max_iter

    def write(self) -> None:
        """A line about the iteration that has just ended."""
        storage = get_event_storage()
        done = storage.iter + 1
        losses = {k: v.median(20) for k, v in storage.histories().items() if "loss" in k}
        if done > self._max_iter or "total_loss" not in losses:
            return  # after the end, of which the results speak
        terms: dict[str, float] = {}
        for name, value in losses.items():
            if name.startswith("loss_"):
                term = re.sub(r"_\d+$", "", name.removeprefix("loss_"))
                terms[term] = terms.get(term, 0.0) + value
        parts = ", ".join(f"{term} {value:.3g}" for term, value in terms.items())
        line = f"iteration {done:,} of {self._max_iter:,}: loss {losses['total_loss']:.4g}"
        line += f" ({parts})" if parts else ""  # a loss of one term has its total alone
        seconds = storage.histories().get("time")
        if seconds is not None:
            left = timedelta(seconds=round(seconds.median(1000) * (self._max_iter - done)))
            line += f", {seconds.median(20):.3g} s each, {left} left"
        _logger.info("%s", line)


def result_tables(results: Mapping[str, Any]) -> str:
    """The results of one data set as tables: its measures, and each class.

    Args:
        results: of Detectron2's evaluators: by task, measures by name; a name with a dash belongs
            to one class, as in ``IoU-road``.
    """
    texts = []
    for task, measures in results.items():
        if not isinstance(measures, Mapping):
            continue
        whole = {name: value for name, value in measures.items() if "-" not in name}
        if whole:
            row = [task, *(f"{value:.2f}" for value in whole.values())]
            texts.append(tabulate([row], ["", *whole], disable_numparse=True))
        if classes := _class_rows(measures):
            texts.append(classes)
    return "\n\n".join(texts)


def _class_rows(measures: Mapping[str, float]) -> str:
    kinds: dict[str, dict[str, float]] = {}
    for name, value in measures.items():
        kind, dash, label = name.partition("-")
        if dash:
            kinds.setdefault(label, {})[kind] = value
    if not kinds:
        return ""
    headers = ["class", *dict.fromkeys(kind for row in kinds.values() for kind in row)]
    rows = [
        [label, *(f"{row.get(kind, math.nan):.2f}" for kind in headers[1:])]
        for label, row in kinds.items()
    ]
    blocks = math.ceil(len(rows) / _LONGEST_TABLE)
    height = math.ceil(len(rows) / blocks)
    columns = [rows[i : i + height] for i in range(0, len(rows), height)]
    empty = [""] * len(headers)
    beside = [[*chain(*row)] for row in zip_longest(*columns, fillvalue=empty)]
    align = ["left", *["right"] * (len(headers) - 1)] * blocks
    return tabulate(beside, headers * blocks, disable_numparse=True, colalign=align)


def command_to_resume(argv: Sequence[str]) -> str:
    """The command that goes on with the run that a command has started.

    Args:
        argv: the program, a script or the words of another, and its arguments.
    """
    given = [argument for argument in argv[1:] if argument not in ("--resume", "--overwrite")]
    program = shlex.quote(argv[0]) if os.path.isfile(argv[0]) else argv[0]
    return f"{program} {shlex.join(['--resume', *given])}"
