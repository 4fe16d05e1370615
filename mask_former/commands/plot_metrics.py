"""Draws a metric of several runs against the iteration, from what trainings have written.

``mask_former plot --metric sem_seg/mIoU --output curves.png RUN [RUN ...]``; a curve
has the name of its folder, with as many folders above it as tell it from the others.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..d2.run.files import json_lines


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw a metric of several runs.")
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="OUTPUT_DIR of a training")
    add("--metric", default="total_loss", help="a key of metrics.json; default: %(default)s")
    add("--output", type=Path, required=True, help="picture to write")
    return parser.parse_args(argv)


def read_curve(run: Path, metric: str) -> tuple[list[int], list[float]]:
    """Iterations and values of a metric.

    Raises:
        ValueError: the run has no such file or no such metric; names those that it has.
    """
    path = run / "metrics.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name the OUTPUT_DIR of a training")
    try:
        lines = json_lines(path)
        if not lines or not all(isinstance(line, dict) for line in lines):
            raise TypeError("a line is no map" if lines else "no line is JSON")
        points = {int(line["iteration"]): float(line[metric]) for line in lines if metric in line}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not what a training writes, a JSON map with an iteration in each line "
            f"({type(error).__name__}: {error}); name another run"
        ) from error
    if not points:
        known = sorted({key for line in lines for key in line} - {"iteration"})
        raise ValueError(f"{path} has no {metric}; it has {', '.join(known)}")
    return list(points), list(points.values())


def labels(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths, of whole names, that are all different."""
    paths = [run.resolve() for run in runs]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        ends = [str(Path(*path.parts[-length:])) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    raise ValueError(f"{', '.join(map(str, runs))}: the same folder is named twice")


def draw(curves: dict[str, tuple[list[int], list[float]]], metric: str) -> Figure:
    """One line for each run."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, (iterations, values) in curves.items():
        axes.plot(iterations, values, marker="o" if len(values) < 30 else None, label=name)
    axes.set(xlabel="iteration", ylabel=metric)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, draws, and says what was written."""
    args = parse_args(argv)
    try:
        curves = {
            label: read_curve(run, args.metric)
            for label, run in zip(labels(args.runs), args.runs, strict=True)
        }
    except ValueError as error:
        sys.exit(f"error: {error}")
    if args.output.is_dir():
        sys.exit(f"error: {args.output} is a folder; name the picture to write in it")
    if not args.output.suffix:
        sys.exit(f"error: {args.output} has no suffix, such as .png, to say the picture's format")
    try:
        draw(curves, args.metric).savefig(args.output, dpi=110)
    except (OSError, ValueError) as error:
        sys.exit(
            f"error: cannot write {args.output}: {error}; give a folder that can be written and a "
            "suffix such as .png"
        )
    print(args.output)
