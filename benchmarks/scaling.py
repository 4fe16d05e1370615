"""Training steps of many sizes, and what they say of others: docs/SCALING.md.

``python -m benchmarks.scaling FOLDER [CASE ...]``. Cases are those of steps.py. Each runs in
processes of its own and leaves a file in the folder; a file that is there is taken.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import ROOT, Row, table
from benchmarks.steps import PARTS, Setup, name_of, setup_named

AXES = {
    "pictures": (1, 2, 4),
    "size": (128, 256, 384),
    "queries": (50, 100, 200),
    "classes": (20, 150, 847),
    "segments": (5, 10, 40),
}
SWEEPS = {axis: [setup_named(f"{axis}={x}") for x in AXES[axis]] for axis in AXES}
R50 = Setup("R50", 512)
SETUPS = [setup for sweep in SWEEPS.values() for setup in sweep]
SETUPS += [Setup(processes=2), Setup(pictures=1, processes=4)]
SETUPS += [Setup(size=128, queries=200, segments=100)]  # the most that the matcher has to do
SETUPS += [R50, R50._replace(pictures=1), R50._replace(pictures=1, processes=2)]
WORLD = (  # speed of the device, pictures of a process, processes, Gbit/s
    *((1, 2, 1, 1), (1, 2, 8, 1), (100, 2, 1, 1), (100, 2, 8, 1), (100, 2, 8, 10)),
    *((100, 2, 64, 10), (100, 2, 64, 100), (100, 16, 8, 10), (100, 16, 64, 10)),
)


def fits(rows: dict[Setup, Row]) -> list[Row]:
    """The line through each figure along each axis, and the share of the variance that it explains.

    That of the size is a line along thousands of pixels.
    """
    found = []
    for axis, sweep in SWEEPS.items():
        if not all(setup in rows for setup in sweep):
            continue
        x = np.array(AXES[axis]) ** 2 / 1000 if axis == "size" else np.array(AXES[axis])
        for figure in (*PARTS, "live MiB"):
            y = np.array([rows[setup][figure] for setup in sweep])
            slope, start = np.polyfit(x, y, 1)
            left, spread = ((y - start - slope * x) ** 2).sum(), ((y - y.mean()) ** 2).sum()
            share = 1 - left / spread if spread else 1.0
            found.append({"axis": axis, "of": figure, "at 0": start, "each": slope, "R2": share})
    return found


def predicted(
    row: Row, load: float, workers: int, faster: float, pictures: int, n: int, gigabits: float
) -> Row:
    """A step by the model of docs/SCALING.md, in ms.

    Args:
        row: what was measured with one process.
        load: processor time of a picture in the loader.
        workers: loader processes of a process.
        faster: how many times the device is as fast as the core that was measured.
        pictures: of each process.
        n: number of processes.
        gigabits: a second, that the slowest link between two of them carries.
    """
    times = {part: row[part] * pictures / row["pictures"] for part in PARTS}
    times["optimizer"] = row["optimizer"]
    loader = load * pictures / workers
    network = 2 * (n - 1) / n * 4 * row["parameters"] * 8 / (gigabits * 1e6)
    waits = {
        "model": sum(times[part] for part in PARTS if part != "assignment") / faster,
        "matcher": times["assignment"],
        "network": max(0.0, network - times["backward"] / faster),
    }
    step = max(loader, sum(waits.values()))
    return {
        **{"speed": faster, "pictures": pictures, "n": n, "Gbit/s": gigabits},
        **{"loader": loader, "matcher": waits["matcher"], "all-reduce": network, "step": step},
        "pictures/s": 1000 * n * pictures / step,
        "limit": "loader" if step == loader else max(waits, key=lambda name: waits[name]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is not measured yet; prints figures, lines through them, and predictions."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.scaling", description=__doc__.partition(":")[0]
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="for a file of each case")
    add("cases", nargs="*", metavar="CASE", help="as queries=200; default: all")
    add("--load", type=float, default=20, help="ms of a picture in the loader; %(default)s")
    add("--workers", type=int, default=4, help="loader processes of each process; %(default)s")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    setups = map(setup_named, args.cases) if args.cases else dict.fromkeys(SETUPS)
    rows = {setup: setup._asdict() | measured(setup, args.folder.resolve()) for setup in setups}
    print(table(list(rows.values())), table(fits(rows)), sep="\n\n")
    if R50 in rows:
        ways = [predicted(rows[R50], args.load, args.workers, *way) for way in WORLD]
        print(table(ways), sep="\n")


def measured(setup: Setup, folder: Path) -> Row:
    """The figures of a setup, measured unless they lie in the folder."""
    file = folder / f"{name_of(setup)}.json"
    if not file.exists():
        command = ["-m", "benchmarks.steps", str(file), name_of(setup)]
        if setup.processes > 1:
            launcher = "-m torch.distributed.run --standalone --nproc-per-node"
            command = [*launcher.split(), str(setup.processes), *command]
        quiet = {"KINETO_LOG_LEVEL": "99", "PYTHONWARNINGS": "ignore"}
        subprocess.run([sys.executable, *command], cwd=ROOT, env=os.environ | quiet, check=True)
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
