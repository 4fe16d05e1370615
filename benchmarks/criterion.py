"""Time and memory of a criterion step, matching and losses forward and backward, at paper shapes.

``python -m benchmarks.criterion [--json FILE]``, from the root of the checkout. Ours and the plain
reference (reference.py) get the same random predictions and the same targets, Voronoi cells. Three
methods of ours, each against the reference's dense step or the part of it that does the same:

* dense: losses on all pixels. Losses and gradients are compared first.
* points: matching and losses at 12544 sampled points a mask (Mask2Former's number). The losses are
  estimates, so nothing is compared.
* losses: dense mask losses alone, from mask logits of all queries and given matches to the gradient
  of those logits. Compared first.

measure.py has the protocol.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.host_reads import host_reads
from benchmarks.measure import add_arguments, compare, printed, report
from mask_former.functional.mask_losses import matched_mask_losses
from mask_former.functional.matching import Matches, bipartite_matching
from mask_former.functional.points import PointOptions
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

WEIGHTS = LossWeights()
NUM_POINTS = 12544

Result = tuple[Tensor, ...]
"""A loss and its gradients."""


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
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    add_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints each row as soon as it is measured, then the table."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    cells = product(args.shapes, args.methods)
    report(printed(measure(*cell, args.pairs) for cell in cells), args)


def measure(shape: str, method: str, pairs: int) -> dict[str, str | float | None]:
    """One row of the table; ratios are ours over the reference."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    prediction = random_prediction(SHAPES[shape], device)
    targets = random_targets(SHAPES[shape], device)
    ours, plain = METHODS[method](prediction, targets)
    difference = None if method == "points" else largest_difference(ours(), plain())
    found = compare(ours, plain, pairs)
    return {
        "shape": shape,
        "method": method,
        "ours ms": found.ours_ms,
        "reference ms": found.reference_ms,
        "time ratio": found.time_ratio,
        "ours MiB": found.ours_mib,
        "reference MiB": found.reference_mib,
        "memory ratio": found.memory_ratio,
        "reads": host_reads(ours),
        "reference reads": host_reads(plain),
        "largest difference": difference,
    }


def largest_difference(ours: Result, plain: Result) -> float:
    """Largest error of any result, relative to the result's largest value."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, plain, strict=True))


Works = tuple[Callable[[], Result], Callable[[], Result]]
"""Ours and the reference's."""


def whole_step(
    prediction: MaskPrediction, targets: list[MaskTarget], points: PointOptions | None
) -> Works:
    """Matching and all losses, from the prediction to its gradient."""
    criterion = SetCriterion(
        num_classes=prediction.class_logits.shape[-1] - 1,
        matcher=partial(bipartite_matching, weights=WEIGHTS),
        weights=WEIGHTS,
        no_object_weight=0.1,
        points=points,
    ).to(prediction.pixel_embed.device)

    def ours() -> Result:
        return step(prediction, criterion(prediction, targets))

    def plain() -> Result:
        losses = reference.criterion(prediction, targets, WEIGHTS, criterion.empty_weight)
        return step(prediction, losses)

    return ours, plain


def mask_losses_alone(prediction: MaskPrediction, targets: list[MaskTarget]) -> Works:
    """Focal and dice loss of all layers, from mask logits to their gradient."""
    matches = bipartite_matching(prediction, targets, WEIGHTS)
    layers, num_masks = len(prediction.mask_embed), sum(len(target.labels) for target in targets)
    with torch.no_grad():
        logits = torch.stack([prediction.mask_logits(layer) for layer in range(layers)])
    logits.requires_grad_()  # [L, B, Q, h, w]

    def ours() -> Result:
        losses = []
        pairs = zip(*(index.split(matches.per_image) for index in matches[:4]), strict=True)
        for target, (layer, image, query, index) in zip(targets, pairs, strict=True):
            losses += matched_mask_losses(logits[layer, image, query], target.masks, index)
        return total_and_gradient([loss.sum() / num_masks for loss in losses])

    def plain() -> Result:
        losses = []
        for layer in range(layers):
            pairs = pairs_of_layer(matches, layer, len(targets))
            losses += reference.mask_losses(logits[layer], targets, pairs, num_masks)
        return total_and_gradient(losses)

    def total_and_gradient(losses: list[Tensor]) -> Result:
        total = torch.stack(losses).sum()
        return total.detach(), *torch.autograd.grad(total, logits)

    return ours, plain


def pairs_of_layer(matches: Matches, layer: int, images: int) -> reference.Pairs:
    """Matched queries and segments of each image."""
    rows = [(matches.layer == layer) & (matches.image == image) for image in range(images)]
    return [(matches.query[row], matches.target[row]) for row in rows]


METHODS: dict[str, Callable[[MaskPrediction, list[MaskTarget]], Works]] = {
    "dense": partial(whole_step, points=None),
    "points": partial(whole_step, points=PointOptions(NUM_POINTS)),
    "losses": mask_losses_alone,
}


def step(prediction: MaskPrediction, losses: dict[str, Tensor]) -> Result:
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
