"""All comparisons, or some, one after another, and whether our bars hold.

``python -m benchmarks FOLDER [--bars] [CASE ...]``, from the root of the checkout. Figures are
written into the folder after each case. A case is named by its path or by the beginning of it.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import growth, models
from benchmarks.measure import Row, compare, module_of, table

GROUPS = (
    *("criterion", "postprocessing", "training", "loading"),
    *("overlay", "prediction", "models", "growth"),
)


class Bar(NamedTuple):
    """What the ratio of one side may be, at most, over some cases."""

    what: str
    cases: tuple[str, ...]
    side: str
    ratio: str
    allowed: float
    summary: Callable[[Sequence[float]], float] = max


COCO, ADE20K = ("criterion/coco",), ("postprocessing/semantic/ade20k",)
PANOPTIC = tuple(f"postprocessing/panoptic/{n}" for n in ("ade20k", "640-133", "1080p-133"))
WHOLE = (
    *(f"models/{m}/{w}/float32/eager" for m in models.MODELS for w in models.WORKS[::2]),
    "models/R50/panoptic/1/float32/compiled",
)
BARS = (
    Bar("criterion, COCO, dense: time", COCO, "dense", "ms ratio", 0.25),
    Bar("criterion, COCO, dense: memory", COCO, "dense", "live ratio", 0.06),
    Bar("criterion, COCO, points: time", COCO, "points", "ms ratio", 0.06),
    Bar("criterion, COCO, points: memory", COCO, "points", "live ratio", 0.05),
    Bar("panoptic alone: time", PANOPTIC, "ours", "ms ratio", 0.2),
    Bar("panoptic alone: memory", PANOPTIC, "ours", "live ratio", 0.15),
    Bar("semantic, 512x683: time", ADE20K, "ours", "ms ratio", 0.7),
    Bar("training step, ADE20K: time", ("training/ade20k",), "scripts", "ms ratio", 0.85),
    Bar("training step, COCO: time", ("training/coco",), "scripts", "ms ratio", 0.75),
    Bar("many pictures to files: time", ("prediction/label",), "worker", "ms ratio", 1.11),
    Bar("whole models, highest: time", WHOLE, "ours", "ms ratio", 0.95),
    Bar("whole models, mean: time", WHOLE, "ours", "ms ratio", 0.80, statistics.geometric_mean),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the sides of each case as soon as they are measured, and the bars last."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="for the figures, as JSON")
    add("cases", nargs="*", metavar="CASE", help="path of a case, or its beginning; default: all")
    add("--bars", action="store_true", help="what the bars need: about twenty minutes")
    add("--threads", type=int, default=1, help="of torch; default: %(default)s")
    add("--rounds", type=int, default=3, help="that are timed; default: %(default)s")
    args = parser.parse_intermixed_args(argv)
    needed = [case for bar in BARS for case in bar.cases] if args.bars else []
    names = chosen(args.cases or ([] if args.bars else GROUPS)) + list(dict.fromkeys(needed))
    if any(name.startswith("models/") for name in names):
        models.check_transformers()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in names:
        try:
            rows += compare(name, args.threads, args.rounds)
        except RuntimeError as error:
            print(f"not measured: {error}", flush=True)
        else:
            print(table([row for row in rows if row["case"] == name]), flush=True)
            (args.folder / "figures.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(f"torch {torch.__version__}, {args.threads} threads, {args.rounds} rounds")
    print(table(rows), table(growth.exponents(rows)), table(bars(rows)), sep="\n\n")


def chosen(given: Sequence[str]) -> list[str]:
    """Names of cases; one that is given in full need not be among those of a whole run."""
    names: list[str] = []
    for name in given:
        group, _, rest = name.partition("/")
        if group not in GROUPS:
            raise SystemExit(f"{name} is no case; cases begin with one of {', '.join(GROUPS)}")
        known = module_of(name).CASES
        begun = [case for case in known if f"{case}/".startswith(f"{name}/")]
        names += begun or ([name] if rest else known)
    return names


def bars(rows: Sequence[Row]) -> list[Row]:
    """Each bar of which all cases were measured, and whether it holds."""
    found = []
    for bar in BARS:
        measured = [row for row in rows if row["side"] == bar.side and row["case"] in bar.cases]
        if len(measured) == len(bar.cases):
            ratio = bar.summary([row[bar.ratio] for row in measured])
            found.append(
                {
                    "bar": bar.what,
                    "is": ratio,
                    "allowed": bar.allowed,
                    "holds": ratio <= bar.allowed,
                }
            )
    return found


if __name__ == "__main__":
    main()
