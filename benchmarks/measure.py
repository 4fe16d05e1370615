"""How benchmarks measure: two ways of doing the same thing, in turn, in one process.

Times are medians over interleaved pairs, and the ratio is the median of the pairs' ratios, which a
machine that others use slows down alike. Memory is the peak of live tensor bytes that torch's
profiler sees, less those at the start: allocations, not resident memory.

One thread is the default: several that share a core with anything else wait for each other, which
costs the side with the shorter steps most. Set OMP_WAIT_POLICY=passive before taking more, else
those that wait burn the core that the other one needs.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


class Comparison(NamedTuple):
    """Ours beside a reference."""

    ours_ms: float
    reference_ms: float
    time_ratio: float
    ours_mib: float
    reference_mib: float

    @property
    def memory_ratio(self) -> float:
        """Peak of ours over peak of the reference."""
        return self.ours_mib / self.reference_mib


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every comparison takes on its command line."""
    add = parser.add_argument
    add("--pairs", type=int, default=5, help="timed pairs; default: %(default)s")
    add("--threads", type=int, default=1, help="of torch; default: %(default)s")
    add("--json", metavar="FILE", help="also write the figures")


def printed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a table, each shown as soon as it is measured."""
    shown = []
    for row in rows:
        print(row, flush=True)
        shown.append(row)
    return shown


def report(rows: Sequence[dict[str, Any]], args: argparse.Namespace, versions: str = "") -> None:
    """Prints the table of the rows, and writes them where the command line says so."""
    print(f"{args.threads} threads, {args.pairs} interleaved pairs, torch {torch.__version__}")
    print(f"{versions}\n" * bool(versions) + tabulate(rows, headers="keys", floatfmt=".3f"))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


def compare(ours: Work, reference: Work, pairs: int) -> Comparison:
    """Measures both, after a round of each that does not count."""
    ours_mib, reference_mib = peak_mib(ours), peak_mib(reference)
    times = [(seconds(ours), seconds(reference)) for _ in range(pairs)]
    ours_times, reference_times = zip(*times, strict=True)
    return Comparison(
        1000 * statistics.median(ours_times),
        1000 * statistics.median(reference_times),
        statistics.median(a / b for a, b in times),
        ours_mib,
        reference_mib,
    )


def seconds(work: Work) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - start


def peak_mib(work: Work) -> float:
    """Peak of live tensor memory while it runs, above what is live at its start, in MiB."""
    if torch.cuda.is_available():
        return _peak_on_gpu(work) / 2**20
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    del result
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU
    ]
    live = peak = 0
    for _, num_bytes in sorted(events, key=lambda event: event[0]):
        live += num_bytes
        peak = max(peak, live)
    return peak / 2**20


def _peak_on_gpu(work: Work) -> int:
    _synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    _synchronize()
    return torch.cuda.max_memory_allocated() - before


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
