"""How benchmarks measure: each side of a case in a fresh process of its own, the sides in turn.

A case is named by a path, ``criterion/coco``. Its first part is a module here, which has the
``SIDES``, the reference first, and ``build(case, side)``, which gives the work to be timed, in
float32, or autocast if the path names bfloat16. A side alone in its process cannot live on memory
that another has left, nor pay for it.

Times are medians over rounds in which each side runs once, and a ratio is the median of the rounds'
ratios, which a machine that others use slows down alike. Processor time tells what a busy machine
hides. "live" is the peak of tensor bytes above those at the start, which torch counts; page faults
and "resident", the peak since the process began, are what the system counts. "of rate" is the share
of the rate at which the machine multiplies two large matrices; reads, see host_reads.py.
"""

import gc
import importlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tabulate import tabulate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# It imports Detectron2 without the warning that nobody can act on, before a case would with it.
import mask_former.d2  # noqa: F401
from benchmarks.host_reads import host_reads

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-3  # between mean magnitudes of results: float32 sums over millions of pixels

Work = Callable[[], object]
Row = dict[str, Any]


class Side:
    """A process that builds one side of a case and runs it whenever it is asked to."""

    def __init__(self, case: str, name: str, threads: int) -> None:
        self.name = f"{case}, {name}"
        command = [sys.executable, "-m", "benchmarks.measure", case, name, str(threads)]
        pipe, quiet = subprocess.PIPE, {"KINETO_LOG_LEVEL": "99", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | quiet, stdin=pipe, stdout=pipe, text=True
        )

    def ask(self, what: str) -> Row:
        """Sends ``build``, ``run`` or ``inspect`` and waits for the figures."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # of a process that has ended
            print(what, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process ended with {self.process.wait()}")
        return json.loads(line)


def serve(case: str, name: str, threads: int) -> None:
    """What such a process does: it answers each line that comes with a line of figures."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to the terminal
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    built = module_of(case).build(case, name)
    dtype = torch.bfloat16 if "bfloat16" in case else torch.float32

    def work() -> object:
        with torch.autocast(device().type, dtype, enabled=dtype != torch.float32):
            return built()

    seconds(work)  # a round that does not count
    ways: dict[str, Callable[[], Row]] = {
        "build": dict,
        "run": lambda: timed(work),
        "inspect": lambda: inspected(work, dtype),
    }
    for line in sys.stdin:
        print(json.dumps(ways[line.strip()]()), file=answers, flush=True)


def timed(work: Work) -> Row:
    """The figures of one run."""
    before, wall = resource.getrusage(resource.RUSAGE_SELF), seconds(work)
    after = resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Not ru_maxrss, which counts what the parent held when it started the process.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    resident = sum(map(int, re.findall(r"VmHWM:\s+(\d+) kB", status))) / 1024
    pages = {"faults": after.ru_minflt - before.ru_minflt, "resident MiB": resident}
    return {"ms": 1000 * wall, "processor ms": 1000 * processor} | pages


class _NoModules:
    """In the place of the counter's hooks on modules, which fail on a loss without gradient."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Nothing is hooked."""

    def __exit__(self, *args: object) -> None:
        """Nothing was hooked."""


def inspected(work: Work, dtype: torch.dtype) -> Row:
    """What slows a run down to find out, and the machine's rate of matrix products."""
    results: list[Any] = []
    live = peak_mib(lambda: results.append(work()))
    tensors = [x for x in tree_leaves(results) if isinstance(x, torch.Tensor)]
    magnitudes = [float(x.detach().double().abs().mean()) for x in tensors]
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    # Fused kernels of attention would not be counted.
    with sdpa_kernel(SDPBackend.MATH), counter:
        reads = host_reads(work)
    work_done = {"GFLOPs": counter.get_total_flops() / 1e9, "rate": matrix_rate(dtype) / 1e9}
    return {"live MiB": live, "reads": reads, "magnitudes": magnitudes} | work_done


def compare(case: str, threads: int = 1, rounds: int = 3) -> list[Row]:
    """A row for each side of a case, the reference first.

    Raises:
        RuntimeError: a side cannot run, or gives another result than the reference.
    """
    names = module_of(case).SIDES
    sides = [Side(case, name, threads) for name in names]  # which start at the same time
    try:
        for side in sides:
            side.ask("build")
        runs = [[side.ask("run") for side in sides] for _ in range(rounds)]
        last = [side.ask("inspect") for side in sides]
    finally:
        for side in sides:
            side.process.kill()
            side.process.communicate()
    expected = [found.pop("magnitudes") for found in last]
    rows = []
    for i, name in enumerate(names):
        row = {key: statistics.median(run[i][key] for run in runs) for key in runs[0][i]} | last[i]
        for key in ("ms", "processor ms"):
            row[f"{key} ratio"] = statistics.median(run[i][key] / run[0][key] for run in runs)
        live = last[0]["live MiB"]
        row["live ratio"] = row["live MiB"] / live if live else None
        row["of rate"] = row["GFLOPs"] / (row["ms"] / 1000) / row.pop("rate")
        pairs = zip(expected[i], expected[0], strict=False)  # a side may give nothing to compare
        row["difference"] = max((abs(a - b) / (abs(b) + 1e-12) for a, b in pairs), default=0.0)
        if row["difference"] > TOLERANCE and "bfloat16" not in case:
            raise RuntimeError(f"{case}: {name} and {names[0]} differ by {row['difference']:.2g}")
        rows.append({"case": case, "side": name} | row)
    return rows


def module_of(case: str) -> ModuleType:
    """The module of a case."""
    return importlib.import_module(f"benchmarks.{case.partition('/')[0]}")


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    return tabulate(rows, headers="keys", floatfmt=".3g")


def device() -> torch.device:
    """Where all run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Work) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matrix_rate(dtype: torch.dtype) -> float:
    """FLOPs a second of a large product of matrices, the best of five."""
    side = 8192 if torch.cuda.is_available() else 2048
    left, right = torch.randn(2, side, side, device=device()).to(dtype)
    return 2 * side**3 / min(seconds(lambda: left @ right) for _ in range(5))


def peak_mib(work: Work) -> float:
    """Peak of live tensor memory while it runs, above what is live at its start, in MiB."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(work)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    del result
    events = [
        event
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type().name == "CPU"
    ]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0)) / 2**20


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
