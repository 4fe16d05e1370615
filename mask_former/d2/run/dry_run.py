"""What a run would be: its setting, and the time and memory of a step as measured."""

import datetime
import resource
import time

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from .terminal import summary

_STEPS = 2  # the first has more to do than the others
_NAMED = 12


def dry_run(trainer: DefaultTrainer) -> str:
    """The lines that a run begins with, its classes, and what a step takes.

    Args:
        trainer: with its weights; changed by the steps, so that it is of no use afterwards.
    """
    pictures = getattr(trainer.data_loader, "num_pictures", None)
    lines = summary(trainer.cfg, trainer.model, pictures, trainer.start_iter)
    seconds = _seconds_a_step(trainer)
    left = datetime.timedelta(seconds=round(seconds * (trainer.max_iter - trainer.start_iter)))
    rows = [
        ("classes", _classes(trainer.cfg.DATASETS.TRAIN[0])),
        ("a step", f"{seconds:.2f} s, {_memory(trainer.cfg.MODEL.DEVICE)}"),
        ("time", f"{left} for all iterations at that pace, without evaluations"),
    ]
    return f"{lines}\n{tabulate(rows, tablefmt='plain', disable_numparse=True)}"


def _seconds_a_step(trainer: DefaultTrainer) -> float:
    with EventStorage(trainer.start_iter) as trainer.storage:
        for step in range(_STEPS):
            trainer.iter = trainer.start_iter + step
            start = time.perf_counter()
            trainer.run_step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
    return time.perf_counter() - start


def _classes(name: str) -> str:
    metadata = MetadataCatalog.get(name)
    names = metadata.get("stuff_classes") or metadata.get("thing_classes") or []
    more = ", …" if len(names) > _NAMED else ""
    return f"{len(names)}: {', '.join(names[:_NAMED])}{more}"


def _memory(device: str) -> str:
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the device at its peak"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"{peak:.1f} GiB of memory at its peak, the whole process"
