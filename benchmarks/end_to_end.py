"""Whole models, ours beside the MaskFormer of the ``transformers`` library: inference and training.

``python -m benchmarks.end_to_end [--train] [--json FILE]``, from the root of the checkout, after
``pip install -e ".[benchmark]"``. Both are built from their configurations; nothing is downloaded.

The two are one architecture: backbone, the plain FPN pixel decoder, no transformer encoder, six
decoder layers, 100 queries. Only the counts of parameters differ: scales of the ResNet's norms are
parameters there and buffers here, and their Swin has a last norm that nothing uses. Weights are
random, which takes as long as trained ones.

A cell is ours and theirs in turn on the same images, with the same precision (autocast on both
sides), both compiled for the shape at hand (``torch.compile``, default mode) or both not, memory
format as each has it or both channels last. measure.py has the protocol. The works are

* ``forward``: from normalised images to class and mask logits of all queries;
* ``result``: from images to label maps or panoptic maps of their size. Ours also normalises and
  pads. How long a panoptic result takes depends on how many queries are sure, and random weights
  are sure of none: so both forward passes run, and then both sides are handed the same
  predictions, 15 segments and 85 times no object. Our labels come from scores summed over
  full-size masks, as the paper's; theirs from scores summed at a quarter of that and resized,
  which is less work and not the same number ("same" is the share of pixels on which they agree);
* ``train``: forward, matching, losses of all six layers and backward, with 10 segments an image,
  without the optimizer, which would be the same. The ResNets' norms are frozen on both sides.

GFLOPs are those of the plain forward pass, or of our training step (matrix_rate.py); "of rate" is
the share that a side reaches of the machine's rate of matrix products in the same precision; reads
are those of the host from the device (host_reads.py).
"""

import argparse
import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.criterion import Shape, random_targets
from benchmarks.host_reads import host_reads
from benchmarks.matrix_rate import matrix_rate, model_flops
from benchmarks.measure import Work, add_arguments, compare, printed, report
from benchmarks.sides import (
    CLASSES,
    DTYPES,
    MODELS,
    Ours,
    Setting,
    Theirs,
    device,
    given_prediction,
    normalise,
    random_images,
)
from mask_former.structures import MaskPrediction

SEGMENTS, SURE = 10, 15
TRAIN_BATCH = 2


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    add("--tasks", nargs="+", choices=CLASSES, default=list(CLASSES), help="default: all")
    add("--batch", nargs="+", type=int, default=[1, 8], help="images; default: 1 and 8")
    add("--dtypes", nargs="+", choices=DTYPES, default=["float32"], help="default: float32")
    modes = ("eager", "compiled")
    add("--modes", nargs="+", choices=modes, default=["eager"], help="default: eager")
    add("--train", action="store_true", help="training steps of two images, not inference")
    add("--channels-last", action="store_true", help="on both sides; default: as each has it")
    add("--size", type=int, default=512, help="side of the images; default: %(default)s")
    add_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints each row as soon as it is measured, then the table and a summary."""
    args = parse_args(argv)
    check_transformers()
    torch.set_num_threads(args.threads)
    batches = [TRAIN_BATCH] if args.train else args.batch
    cells = itertools.product(args.models, args.tasks, batches, args.dtypes, args.modes)
    settings = (Setting(*cell, args.size, args.train, args.channels_last) for cell in cells)
    rows = printed(row for setting in settings for row in measure(setting, args.pairs))
    report(rows, args, versions())
    print(summary(rows))


def check_transformers() -> None:
    """Leaves with the remedy if the other side is not installed."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise SystemExit(
            "benchmarks.end_to_end compares with the library transformers, which is not "
            'installed; install the extra: pip install -e ".[benchmark]"'
        ) from error


def versions() -> str:
    """Of the two libraries, and the device."""
    import transformers

    where = torch.cuda.get_device_name() if device().type == "cuda" else "CPU"
    return f"transformers {transformers.__version__}, {where}"


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Geometric mean of the ratios of each precision and mode, and the cells above 1."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row["dtype"], row["mode"]), []).append(row["time ratio"])
    lines = [
        f"{dtype} {mode}: geometric mean {statistics.geometric_mean(ratios):.3f} of {len(ratios)}"
        for (dtype, mode), ratios in groups.items()
    ]
    slow = [row for row in rows if row["time ratio"] > 1]
    lines += [f"above 1: {list(row.values())[:6]}, {row['time ratio']:.3f}" for row in slow]
    return "\n".join(lines)


def measure(setting: Setting, pairs: int) -> list[dict[str, Any]]:
    """The row ``train``, or the rows ``forward`` and ``result``."""
    torch.manual_seed(0)
    torch.compiler.reset()  # else a second shape would be compiled for all shapes
    ours, theirs = Ours(setting), Theirs(setting)
    counts = [sum(p.numel() for p in side.model.parameters()) for side in (ours, theirs)]
    print("parameters: {:,} of ours, {:,} of theirs".format(*counts))
    if setting.train:
        return [measure_training(setting, ours, theirs, pairs)]
    return measure_inference(setting, ours, theirs, pairs)


def measure_inference(
    setting: Setting, ours: Ours, theirs: Theirs, pairs: int
) -> list[dict[str, Any]]:
    """The rows ``forward`` and ``result``."""
    images = random_images(setting)
    normalised = normalise(images)
    given = given_prediction(shape_of(setting, SURE))
    given = MaskPrediction(*(part.to(DTYPES[setting.dtype]) for part in given))
    logits = given.class_logits[-1], given.mask_logits()
    with torch.no_grad(), setting.precision:
        found = ours.class_maps(ours.result(images, given))
        expected = theirs.class_maps(theirs.result(normalised, *logits))
        same = (torch.stack(found) == torch.stack(expected)).double().mean().item()
        flops = model_flops(lambda: ours.plain_forward(normalised))
        works = {
            "forward": (lambda: ours.forward(normalised), lambda: theirs.forward(normalised)),
            "result": (
                lambda: ours.result(images, given),
                lambda: theirs.result(normalised, *logits),
            ),
        }
        forward, result = (cell(setting, work, *works[work], pairs, flops) for work in works)
    return [forward, result | {"same": same}]


def measure_training(setting: Setting, ours: Ours, theirs: Theirs, pairs: int) -> dict[str, Any]:
    """The row ``train``."""
    images = random_images(setting)
    targets = random_targets(shape_of(setting, SEGMENTS), device())
    step_ours = ours.training_step(setting, images, targets)
    step_theirs = theirs.training_step(setting, normalise(images), targets)
    step_ours(), step_theirs()  # compiled here
    return cell(setting, "train", step_ours, step_theirs, pairs, model_flops(step_ours))


def shape_of(setting: Setting, segments: int) -> Shape:
    """What the predictions and targets of both sides are made for."""
    return Shape(setting.batch, setting.size, setting.size, segments, CLASSES[setting.task])


def cell(
    setting: Setting, work: str, ours: Work, theirs: Work, pairs: int, flops: int
) -> dict[str, Any]:
    """One row of the table."""
    found = compare(ours, theirs, pairs)
    rate = matrix_rate(DTYPES[setting.dtype], device())
    return {
        "model": setting.model,
        "task": setting.task,
        "work": work,
        "batch": setting.batch,
        "dtype": setting.dtype,
        "mode": setting.mode,
        "ours ms": found.ours_ms,
        "theirs ms": found.reference_ms,
        "ours images/s": 1000 * setting.batch / found.ours_ms,
        "theirs images/s": 1000 * setting.batch / found.reference_ms,
        "time ratio": found.time_ratio,
        "ours MiB": found.ours_mib,
        "theirs MiB": found.reference_mib,
        "GFLOPs": flops / 1e9,
        "ours of rate": flops / (found.ours_ms / 1000) / rate,
        "theirs of rate": flops / (found.reference_ms / 1000) / rate,
        "ours reads": host_reads(ours),
        "theirs reads": host_reads(theirs),
    }


if __name__ == "__main__":
    main()
