"""One process or many: by torchrun, which also serves ``--num-processes``, or by Detectron2."""

import logging
import os
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

_TIMEOUT = timedelta(hours=3)  # above the longest evaluation, in which the first process counts


def launched_by_torchrun() -> bool:
    """Whether this process is one of torchrun's."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def join_group(use_cuda: bool) -> None:
    """Meets the other processes of torchrun.

    Args:
        use_cuda: each process has a GPU of its own, and nccl connects them; else gloo does.
    """
    warnings.filterwarnings(
        "ignore", "TypedStorage is deprecated", UserWarning
    )  # Detectron2's comm
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if use_cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if use_cuda else "gloo", timeout=_TIMEOUT)
    first = dist.get_rank() - local_rank
    # Detectron2 asks for the processes of a machine, of which every process makes all groups.
    for start in range(0, dist.get_world_size(), local_size):
        group = dist.new_group(list(range(start, start + local_size)))
        if start == first:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()


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
        argv: the script and its arguments.

    Returns:
        The exit code: 0, that of the first process that failed, or 128 and a signal's number.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the launcher does, which says so at length
    # The process that fails has said why; the launcher would add a page.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments = launcher.parse_args(["--standalone", f"--nproc-per-node={number}", *argv])
    arguments.signals_to_handle = "SIGTERM,SIGINT,SIGUSR1"
    try:
        launcher.run(arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as error:
        return 128 + error.sigval
    return 0
