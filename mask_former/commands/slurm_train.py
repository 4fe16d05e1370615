"""Trains on a SLURM cluster: ``mask_former slurm --nodes 2 --gpus 8 -- TRAIN_NET_ARGUMENTS``.

What stands behind ``--`` goes to ``mask_former train``, in a process for each GPU. A job that is
preempted or reaches its time saves after the iteration, is queued again, and goes on by itself.
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ..__main__ import main as run_command


class Training:
    """What each process of a job does; submitit stores it and asks it for what comes next."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Keeps the command.

        Args:
            arguments: of ``mask_former train``.
        """
        self.arguments = list(arguments)

    def __call__(self) -> None:
        """Trains as one of the processes of the job.

        Raises:
            RuntimeError: the training has failed, with what it said.
        """
        import submitit

        submitit.helpers.TorchDistributedEnvironment().export(
            set_cuda_visible_devices=False, overwrite=True
        )
        try:
            run_command(["train", *self.arguments])
        except SystemExit as end:
            if end.code == 128 + signal.SIGUSR2:  # saved: now submitit's handler queues the job
                signal.raise_signal(signal.SIGUSR2)
            elif end.code:
                raise RuntimeError(f"the training ended with {end.code}") from end

    def checkpoint(self) -> Any:
        """The job that goes on from the last checkpoint, for submitit to queue."""
        import submitit

        kept = [each for each in self.arguments if each not in ("--resume", "--overwrite")]
        return submitit.helpers.DelayedSubmission(Training(["--resume", *kept]))


def argument_parser() -> argparse.ArgumentParser:
    """What is asked of the cluster, and the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1, help="machines (%(default)s)")
    parser.add_argument("--gpus", type=int, default=8, help="of each machine (%(default)s)")
    parser.add_argument(
        "--processes", type=int, default=1, help="of each machine without GPUs (%(default)s)"
    )
    parser.add_argument("--cpus", type=int, default=8, help="of each process (%(default)s)")
    parser.add_argument("--hours", type=float, default=24, help="of the job (%(default)s)")
    parser.add_argument(
        "--requeues",
        type=int,
        default=10,
        help="times that a job may reach its hours (%(default)s)",
    )
    parser.add_argument("--partition", help="of the cluster")
    parser.add_argument("--folder", default="output/slurm", help="of the job's logs (%(default)s)")
    parser.add_argument("--local", action="store_true", help="run on this machine, without SLURM")
    parser.add_argument("arguments", nargs="*", metavar="-- ...", help="of mask_former train")
    return parser


def submit(args: argparse.Namespace) -> Any:
    """Hands the job over; gives submitit's."""
    try:
        import submitit
    except ImportError:
        sys.exit("error: submitit is not installed: pip install 'mask_former[slurm]'")
    wrong = {"--nodes": args.nodes < 1, "--gpus": args.gpus < 0, "--processes": args.processes < 1}
    wrong |= {
        "--hours": not 0 < args.hours < math.inf,
        "--cpus": args.cpus < 1,
        "--requeues": args.requeues < 0,
    }
    for flag, is_wrong in wrong.items():
        if is_wrong:
            value = getattr(args, flag.removeprefix("--"))
            sys.exit(f"error: {flag} is {value}; give a number that can be, see --help")
    try:
        executor = submitit.AutoExecutor(
            os.path.abspath(args.folder),
            cluster="local" if args.local else "slurm",
            slurm_max_num_timeout=args.requeues,
        )
    except OSError as error:
        sys.exit(f"error: --folder {args.folder} cannot be made ({error}); name another")
    except RuntimeError as error:  # there is no SLURM
        sys.exit(f"error: {error} --local runs on this machine, without SLURM")
    executor.update_parameters(
        name="mask_former",
        nodes=args.nodes,
        tasks_per_node=args.gpus or args.processes,
        gpus_per_node=args.gpus,
        cpus_per_task=args.cpus,
        timeout_min=max(1, round(60 * args.hours)),
        **({"slurm_partition": args.partition} if args.partition else {}),
    )
    on_cpu = [] if args.gpus else ["--num-gpus", "0"]
    return executor.submit(Training([*on_cpu, *args.arguments]))


def main(argv: Sequence[str] | None = None) -> None:
    """Submits, and says where to look.

    Args:
        argv: the command line; None: that of the process.
    """
    args = argument_parser().parse_args(argv)
    job = submit(args)
    print(f"job {job.job_id}; the log of the first process: {job.paths.stdout}")
    if args.local:
        job.wait()
        if (error := job.exception()) is not None:
            sys.exit(f"error: {error}")
