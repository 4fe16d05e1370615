"""How time and memory of ours and of the plain reference grow, one size at a time.

``python -m benchmarks.scaling [--json FILE] [--plot FILE]``, from the root of the checkout. From a
base, one of image size, classes, queries, segments and images is varied, the others stay. Works:

* dense, points: a criterion step, matching and losses of six layers, forward and backward; the
  reference's is dense;
* scores, labels, panoptic: from the head's output to the results of all images, at their size. The
  segments are then queries that are sure of a class, the other queries are sure of no object.

The reference is left out where a map of all its masks or classes would not fit ``LIMIT``. How
memory is measured, measure.py says; a time is the least of a few runs, of which other load on the
machine spoils some. The exponent of an axis is the slope of a line through the logarithms: 1 is
linear, and the number of pixels grows with the square of the size.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from benchmarks import reference
from benchmarks.criterion import (
    Shape,
    random_prediction,
    random_targets,
    whole_step,
)
from benchmarks.measure import Work, peak_mib, printed, seconds
from benchmarks.sides import device, given_prediction
from mask_former.functional.lazy_masks import LazyMasks, lazy_masks
from mask_former.functional.panoptic import panoptic_inference
from mask_former.functional.points import PointOptions
from mask_former.functional.semantic import semantic_inference

BASE = Shape(images=2, height=256, width=256, segments=10, classes=150)
AXES: dict[str, tuple[int, ...]] = {
    "size": (128, 256, 512, 1024),
    "classes": (37, 150, 600, 2400),
    "queries": (50, 100, 200, 400),
    "segments": (3, 10, 30, 50),
    "images": (1, 2, 4, 8),
}
NUM_POINTS = 12544
LIMIT = 2**26
"""Numbers, a quarter GiB of float32; the reference holds several such maps."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--axes", nargs="+", choices=AXES, default=list(AXES), help="default: all")
    add("--runs", type=int, default=3, help="timed; default: %(default)s")
    add("--threads", type=int, default=1, help="of torch; default: %(default)s")
    add("--json", metavar="FILE", help="also write the figures")
    add("--plot", metavar="FILE", help="also draw them; .png, .svg or .pdf")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints each row as soon as it is measured, then the table and the exponents."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    cells = ((axis, value) for axis in args.axes for value in AXES[axis])
    rows = printed(row for cell in cells for row in measure(*cell, args.runs))
    print(f"{args.threads} threads, {args.runs} runs, torch {torch.__version__}, base {BASE}")
    print(tabulate(rows, headers="keys", floatfmt=".1f"))
    print(tabulate(exponents(rows), headers="keys", floatfmt=".2f"))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    if args.plot:
        plot(rows, args.plot)


def measure(axis: str, value: int, runs: int) -> list[dict[str, Any]]:
    """The rows of one value of an axis, one for each work that fits."""
    shape = varied(axis, value)
    rows = []
    for name, make in WORKS.items():
        if "reference" in name and not fits(name, shape):
            continue
        torch.manual_seed(0)
        work = make(shape)
        memory = peak_mib(work)  # and a round that does not count
        times = [seconds(work) for _ in range(runs)]
        figures = {"ms": 1000 * min(times), "MiB": memory}
        rows.append({"axis": axis, "value": value, "work": name} | figures)
    return rows


def varied(axis: str, value: int) -> Shape:
    """The base with another value."""
    if axis == "size":
        return BASE._replace(height=value, width=value)
    return BASE._replace(**{axis: value})


def fits(name: str, shape: Shape) -> bool:
    """Whether the largest map of the reference is within the limit."""
    pixels = shape.height * shape.width
    largest = max(shape.queries, shape.classes) * pixels
    if name.startswith("dense"):
        largest = shape.layers * shape.images * shape.queries * pixels // 16
    return largest <= LIMIT


def training(points: PointOptions | None, plain: bool, shape: Shape) -> Work:
    """A criterion step."""
    prediction, targets = random_prediction(shape, device()), random_targets(shape, device())
    return whole_step(prediction, targets, points)[plain]


def inference(result: Callable[[Tensor, LazyMasks], object], shape: Shape) -> Work:
    """Results of all images, one after another."""
    given, size = given_prediction(shape), (shape.height, shape.width)

    @torch.no_grad()
    def work() -> list[object]:
        images = zip(given.class_logits[-1], given.mask_embed[-1], given.pixel_embed, strict=True)
        return [result(classes, lazy_masks(*masks, size, size)) for classes, *masks in images]

    return work


def plain_inference(semantic: bool, shape: Shape) -> Work:
    """The same by the reference."""
    given, size = given_prediction(shape), (shape.height, shape.width)

    @torch.no_grad()
    def work() -> list[object]:
        images = zip(given.class_logits[-1], given.mask_logits(), strict=True)
        kind = {"semantic": semantic, "panoptic": not semantic}
        return [reference.results(*x, size, size, size, **kind, **PANOPTIC) for x in images]

    return work


def panoptic(class_logits: Tensor, masks: LazyMasks) -> object:
    """Segment ids and segments."""
    return panoptic_inference(class_logits, masks, **PANOPTIC)


PANOPTIC: dict[str, Any] = {
    "thing_ids": frozenset(range(20)),
    "object_mask_threshold": 0.8,
    "overlap_threshold": 0.8,
}
WORKS: dict[str, Callable[[Shape], Work]] = {
    "dense": partial(training, None, False),
    "points": partial(training, PointOptions(NUM_POINTS), False),
    "dense, reference": partial(training, None, True),
    "scores": partial(inference, semantic_inference),
    "labels": partial(inference, partial(semantic_inference, labels=True)),
    "scores, reference": partial(plain_inference, True),
    "panoptic": partial(inference, panoptic),
    "panoptic, reference": partial(plain_inference, False),
}


def exponents(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each work and figure, a column for each axis; at least two values of each."""
    table = []
    for name, figure in ((name, figure) for name in WORKS for figure in ("ms", "MiB")):
        table.append({"work": name, "of": figure})
        for axis in dict.fromkeys(row["axis"] for row in rows):
            values, figures = line(rows, axis, name, figure)
            slope = np.polyfit(np.log(values), np.log(figures), 1)[0] if len(values) > 1 else None
            table[-1][axis] = slope
    return table


def line(
    rows: Sequence[dict[str, Any]], axis: str, work: str, figure: str
) -> tuple[list[int], list[float]]:
    """Values of an axis and the figures of a work there."""
    found = [row for row in rows if (row["axis"], row["work"]) == (axis, work)]
    return [row["value"] for row in found], [row[figure] for row in found]


def plot(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Four rows of panels, time and memory of training and of inference, and a column an axis."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    training_works, inference_works = list(WORKS)[:3], list(WORKS)[3:]
    panels = [(works, figure) for works in (training_works, inference_works) for figure in LABELS]
    canvas = Figure(figsize=(3.2 * len(axes) + 2, 11), layout="constrained")
    grid = canvas.subplots(len(panels), len(axes), sharex="col", sharey="row", squeeze=False)
    for panel_row, (works, figure) in zip(grid, panels, strict=True):
        for panel, axis in zip(panel_row, axes, strict=True):
            draw(panel, rows, axis, works, figure)
        panel_row[0].set_ylabel(LABELS[figure])
        panel_row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for panel, axis in zip(grid[-1], axes, strict=True):
        panel.set_xlabel("side of the image, pixels" if axis == "size" else axis)
        panel.set_xticks(AXES[axis], [str(n) for n in AXES[axis]], minor=False)
        panel.set_xticks([], minor=True)
    canvas.savefig(path, dpi=110)


LABELS = {"ms": "time, ms", "MiB": "peak memory, MiB"}
COLOURS = {"dense": "C0", "points": "C1", "scores": "C2", "labels": "C4", "panoptic": "C3"}


def draw(
    panel: Any, rows: Sequence[dict[str, Any]], axis: str, works: Sequence[str], figure: str
) -> None:
    """The lines of one panel; dashed, of the reference."""
    for work in works:
        style = "--" if "reference" in work else "-"
        colour = COLOURS[work.split(",")[0]]
        panel.loglog(*line(rows, axis, work, figure), style, color=colour, marker=".", label=work)
    panel.grid(alpha=0.3)


if __name__ == "__main__":
    main()
