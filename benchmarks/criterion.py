"""A criterion step at paper shapes: matching and losses of six layers, forward and backward.

``criterion/SHAPE``, where SHAPE is one of ``SHAPES``, or ``size=512`` for ``GROWTH`` with another
value. All sides get the same random predictions and targets, Voronoi cells. "dense" scores all
pixels and must give the reference's loss and gradients; "points" scores 12544 sampled points a
mask (Mask2Former's number), which is another number.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.measure import Work, device
from mask_former.functional.matching import bipartite_matching
from mask_former.functional.points import PointOptions
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

SIDES = ("reference", "dense", "points")
WEIGHTS = LossWeights()
NUM_POINTS = 12544


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
GROWTH = Shape(images=2, height=256, width=256, segments=10, classes=150)
CASES = tuple(f"criterion/{name}" for name in SHAPES)


def shape_named(name: str) -> Shape:
    """One of ``SHAPES``, or ``GROWTH`` with another value, as in ``queries=200``."""
    if name in SHAPES:
        return SHAPES[name]
    field, value = name.split("=")
    sides = ("height", "width") if field == "size" else (field,)
    return GROWTH._replace(**dict.fromkeys(sides, int(value)))


def build(case: str, side: str) -> Work:
    """One side: the total loss and the gradients of the prediction."""
    s = shape_named(case.split("/")[1])
    inputs = [
        2 * torch.randn(s.layers, s.images, s.queries, s.classes + 1),
        # Mask logits spread by about 3.
        3 / s.channels**0.5 * torch.randn(s.layers, s.images, s.queries, s.channels),
        torch.randn(s.images, s.channels, s.height // 4, s.width // 4),
    ]
    inputs = [x.to(device()).requires_grad_() for x in inputs]
    prediction, targets = MaskPrediction(*inputs), random_targets(s)
    criterion = SetCriterion(
        num_classes=s.classes,
        matcher=partial(bipartite_matching, weights=WEIGHTS),
        weights=WEIGHTS,
        no_object_weight=0.1,
        points=PointOptions(NUM_POINTS) if side == "points" else None,
    ).to(device())

    def work() -> list[Tensor | None] | None:
        if side == "reference":
            losses = reference.criterion(prediction, targets, WEIGHTS, criterion.empty_weight)
        else:
            losses = criterion(prediction, targets)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        found = [total.detach(), *(x.grad for x in inputs)]
        for x in inputs:
            x.grad = None
        return None if side == "points" else found

    return work


def random_targets(shape: Shape) -> list[MaskTarget]:
    """Each pixel belongs to the nearest of random sites."""
    targets = []
    for _ in range(shape.images):
        masks = voronoi_cells(shape.segments, shape.height, shape.width)
        labels = torch.randint(0, shape.classes, (shape.segments,))
        targets.append(MaskTarget(labels.to(device()), masks.to(device())))
    return targets


def voronoi_cells(number: int, height: int, width: int) -> Tensor:
    """Masks [number, height, width] of random cells that share the image."""
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    distance = [(y - site[0]) ** 2 + (x - site[1]) ** 2 for site in torch.rand(number, 2)]
    return torch.stack(distance).argmin(0) == torch.arange(number)[:, None, None]
