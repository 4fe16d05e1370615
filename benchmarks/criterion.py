"""Time and memory of a criterion step, matching and losses forward and backward, at paper shapes.

``python -m benchmarks.criterion [--json FILE]``, from the root of the checkout. Ours and the plain
reference (reference.py) get the same random predictions and the same targets, Voronoi cells; losses
and gradients are compared first. measure.py has the protocol.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor

from benchmarks import reference
from benchmarks.measure import compare
from mask_former.functional.matching import bipartite_matching
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

WEIGHTS = LossWeights()


class Shape(NamedTuple):
    """Sizes of a step; letters as in mask_former.structures."""

    images: int
    height: int
    width: int
    segments: int
    classes: int
    queries: int = 100
    layers: int = 6
    channels: int = 256


SHAPES = {
    "ade20k": Shape(images=2, height=512, width=512, segments=10, classes=150),
    "coco": Shape(images=1, height=800, width=1216, segments=20, classes=133),
    "ade20k-full": Shape(images=2, height=512, width=512, segments=15, classes=847),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all")
    add("--pairs", type=int, default=5, help="timed pairs; default: %(default)s")
    add("--threads", type=int, default=2, help="of torch; default: %(default)s")
    add("--json", metavar="FILE", help="also write the figures")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = [measure(name, SHAPES[name], args.pairs) for name in args.shapes]
    print(f"{args.threads} threads, {args.pairs} interleaved pairs, {torch.__version__}")
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


def measure(name: str, shape: Shape, pairs: int) -> dict[str, str | float]:
    """One row of the table; ratios are ours over the reference."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    prediction, targets = random_prediction(shape, device), random_targets(shape, device)
    criterion = SetCriterion(
        num_classes=shape.classes,
        matcher=partial(bipartite_matching, weights=WEIGHTS),
        weights=WEIGHTS,
        no_object_weight=0.1,
    ).to(device)

    def ours() -> tuple[Tensor, ...]:
        return step(prediction, criterion(prediction, targets))

    def plain() -> tuple[Tensor, ...]:
        losses = reference.criterion(prediction, targets, WEIGHTS, criterion.empty_weight)
        return step(prediction, losses)

    difference = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours(), plain(), strict=True)
    )
    found = compare(ours, plain, pairs)
    return {
        "shape": name,
        "ours ms": found.ours_ms,
        "reference ms": found.reference_ms,
        "time ratio": found.time_ratio,
        "ours MiB": found.ours_mib,
        "reference MiB": found.reference_mib,
        "memory ratio": found.memory_ratio,
        "largest difference": difference,
    }


def step(prediction: MaskPrediction, losses: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The total loss and its gradients."""
    total = torch.stack(list(losses.values())).sum()
    return (total.detach(), *torch.autograd.grad(total, list(prediction)))


def random_prediction(shape: Shape, device: torch.device) -> MaskPrediction:
    """Masks whose logits spread by about 3."""
    s = shape
    parts = (
        2 * torch.randn(s.layers, s.images, s.queries, s.classes + 1, device=device),
        3 / s.channels**0.5 * torch.randn(s.layers, s.images, s.queries, s.channels, device=device),
        torch.randn(s.images, s.channels, s.height // 4, s.width // 4, device=device),
    )
    return MaskPrediction(*(part.requires_grad_() for part in parts))


def random_targets(shape: Shape, device: torch.device) -> list[MaskTarget]:
    """Each pixel belongs to the nearest of random sites."""

    def target() -> MaskTarget:
        sites = torch.rand(shape.segments, 2)
        y = torch.arange(shape.height)[:, None] / shape.height
        x = torch.arange(shape.width) / shape.width
        distance = [(y - site[0]) ** 2 + (x - site[1]) ** 2 for site in sites]
        nearest = torch.stack(distance).argmin(0)
        masks = torch.arange(shape.segments)[:, None, None] == nearest
        labels = torch.randint(0, shape.classes, (shape.segments,))
        return MaskTarget(labels.to(device), masks.to(device))

    return [target() for _ in range(shape.images)]


if __name__ == "__main__":
    main()
