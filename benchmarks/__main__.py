"""All comparisons one after another in one run, then whether our bars hold.

``python -m benchmarks FOLDER [--threads N]``, from the root of the checkout, after
``pip install -e ".[benchmark]"``. Each comparison writes its figures into the folder as soon as it
ends; the bars are read from there. Takes two hours on one CPU core.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from benchmarks import criterion, end_to_end, postprocessing, scaling

Rows = list[dict[str, Any]]

BOTH_MODES = ("--modes", "eager", "compiled")
RUNS = {
    "criterion": (criterion, ()),
    "postprocessing": (postprocessing, ()),
    "inference": (end_to_end, BOTH_MODES),
    "training": (end_to_end, ("--train", *BOTH_MODES)),
    "scaling": (scaling, ("--plot", "{folder}/scaling.png")),
}


class Bar(NamedTuple):
    """What a figure may be at most."""

    what: str
    figure: float
    allowed: float


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all, and prints the bars last."""
    description = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser("python -m benchmarks", description=description)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for the figures, as JSON")
    parser.add_argument("--threads", default="1", help="of torch; default: %(default)s")
    args = parser.parse_args(argv)
    end_to_end.check_transformers()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, (script, options) in RUNS.items():
        print(f"== {name}", flush=True)
        argv = [option.format(folder=args.folder) for option in options]
        path = args.folder / f"{name}.json"
        script.main([*argv, "--threads", args.threads, "--json", str(path)])
    rows = {name: json.loads((args.folder / f"{name}.json").read_text()) for name in RUNS}
    held = [bar._asdict() | {"holds": bar.figure <= bar.allowed} for bar in bars(rows)]
    print(tabulate(held, headers="keys", floatfmt=".3f"))


def bars(rows: dict[str, Rows]) -> list[Bar]:
    """The worst figure of each kind beside what is allowed, all of them ratios."""
    coco = {row["method"]: row for row in rows["criterion"] if row["shape"] == "coco"}
    results = rows["postprocessing"]
    semantic = [row for row in results if (row["shape"], row["result"]) == ("ade20k", "semantic")]
    panoptic = [row for row in results if row["result"] == "panoptic"]
    maps = [row for row in results if row["result"] != "labels"]
    whole = [row["time ratio"] for row in rows["inference"] + rows["training"]]
    return [
        Bar("criterion, COCO: dense, memory", coco["dense"]["memory ratio"], 0.12),
        Bar("criterion, COCO: dense, time", coco["dense"]["time ratio"], 0.75),
        Bar("criterion, COCO: dense losses alone, time", coco["losses"]["time ratio"], 0.70),
        Bar("criterion, COCO: points, memory", coco["points"]["memory ratio"], 0.04),
        Bar("criterion, COCO: points, time", coco["points"]["time ratio"], 0.10),
        Bar("panoptic alone, time", worst(panoptic, "time ratio"), 0.2),
        Bar("semantic, 512x683, 150 classes, time", worst(semantic, "time ratio"), 0.7),
        Bar("scores and segments, peak over output", worst(maps, "over output"), 1.2),
        Bar("whole models, float32, highest time", max(whole), 1.0),
        Bar("whole models, float32, geometric mean", statistics.geometric_mean(whole), 0.8),
    ]


def worst(rows: Rows, figure: str) -> float:
    """The highest, of rows that have it: some are too large to be measured."""
    return max(row[figure] for row in rows if row[figure] is not None)


if __name__ == "__main__":
    main()
