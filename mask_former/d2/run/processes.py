"""One process or many: by torchrun or a like launcher, by ``--num-processes``, or by Detectron2."""

import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from torch import nn
from torch.distributed import run as launcher
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ..errors import InputError

_OF_A_GROUP = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_TIMEOUT = timedelta(hours=3)  # above the longest evaluation, in which the first process counts


def launched_by_torchrun() -> bool:
    """Whether the launcher of this process is torchrun, or ours."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_one_of_several() -> bool:
    """Whether a launcher, torchrun or another, has told this process of its group.

    Raises:
        InputError: it has told half, or what cannot be.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    given = {name: os.environ.get(name, "") for name in _OF_A_GROUP}
    if missing := [name for name, value in given.items() if not value]:
        raise InputError(
            f"RANK is {given['RANK']} in the environment, but not set are {', '.join(missing)}; "
            "start with torchrun, which sets all of them, or unset RANK"
        )
    numbers = {name: given[name] for name in _OF_A_GROUP if name != "MASTER_ADDR"}
    if wrong := [name for name, value in numbers.items() if not value.isdecimal()]:
        raise InputError(
            f"{wrong[0]} is {given[wrong[0]]!r} in the environment; it must be a whole number"
        )
    for rank, size in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if int(given[rank]) >= int(given[size]):
            raise InputError(
                f"{rank} is {given[rank]} in the environment, but {size} is {given[size]}; ranks "
                f"are 0 to {int(given[size]) - 1}"
            )
    return True


def join_group(use_cuda: bool) -> None:
    """Meets the other processes that the launcher has started.

    Args:
        use_cuda: each process has a GPU of its own, and nccl connects them; else gloo does.

    Raises:
        InputError: the machine has fewer GPUs than processes.
    """
    warnings.filterwarnings(
        "ignore", "TypedStorage is deprecated", UserWarning
    )  # Detectron2's comm
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if use_cuda:
        if local_size > torch.cuda.device_count():
            raise InputError(
                f"{local_size} processes on a machine with {torch.cuda.device_count()} GPUs; start "
                "as many as there are, or give --num-gpus 0"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if use_cuda else "gloo", timeout=_TIMEOUT)
    first = dist.get_rank() - local_rank
    # Detectron2 asks for the processes of a machine, of which every process makes all groups.
    for start in range(0, dist.get_world_size(), local_size):
        group = dist.new_group(list(range(start, start + local_size)))
        if start == first:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()


def average_statistics(model: nn.Module) -> None:
    """Has batch norms share their running statistics, as each process sees a part of the batch.

    After each step, not just before a file is written: any process may write it, and a run that
    goes on from it shall have the same numbers. Means of running means are those of the means.
    """
    if comm.get_world_size() == 1:
        return
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    statistics = [
        buffer
        for norm in norms
        if norm.training and not isinstance(norm, nn.SyncBatchNorm)
        for buffer in (norm.running_mean, norm.running_var)
        if buffer is not None
    ]
    if not statistics:
        return
    together = torch.cat([buffer.flatten() for buffer in statistics])
    dist.all_reduce(together)
    parts = (together / comm.get_world_size()).split([buffer.numel() for buffer in statistics])
    for buffer, part in zip(statistics, parts, strict=True):
        buffer.copy_(part.view_as(buffer))


def distributed(model: nn.Module) -> nn.Module:
    """The model, whose gradients all processes share; as it is in one process."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    devices = {"device_ids": None} if on_cpu else {}  # torch refuses to be told a CPU
    with warnings.catch_warnings():
        # Detectron2 hands it on, and older versions of torch know nothing else.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return create_ddp_model(model, broadcast_buffers=False, **devices)


def run_processes(number: int, argv: Sequence[str]) -> int:
    """Runs a command in several processes of this machine, by torch's own launcher.

    Args:
        number: of processes.
        argv: the script, or the words of a program that is none, and its arguments.

    Returns:
        The exit code: 0, that of the first process that failed, or 128 and a signal's number.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the launcher does, which says so at length
    # The process that fails has said why; the launcher would add a page.
    for name in ("", ".agent.server.api", ".multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic{name}").setLevel(logging.CRITICAL)
    program = argv[:1] if os.path.isfile(argv[0]) else ["--no-python", *shlex.split(argv[0])]
    options = ["--standalone", f"--nproc-per-node={number}"]
    arguments = launcher.parse_args([*options, *program, *argv[1:]])
    arguments.signals_to_handle = "SIGTERM,SIGINT,SIGUSR1"
    try:
        launcher.run(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        if code < 0:  # it could not say so itself
            name = signal.Signals(-code).name
            print(f"process {rank} of {number} was ended by {name}", file=sys.stderr)
        return code if code > 0 else 128 - code
    except SignalException as error:
        return 128 + error.sigval
    return 0
