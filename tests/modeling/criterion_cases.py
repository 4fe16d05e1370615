"""Criteria, random predictions with targets, padding of both, and the losses of a step."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.functional.matching import bipartite_matching
from mask_former.functional.points import PointOptions
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

WEIGHTS = LossWeights(2.0, 20.0, 5.0)
CLASSES = 3
POINTS = PointOptions(40)
METHODS = pytest.mark.parametrize("points", [None, POINTS], ids=["dense", "points"])


def make_criterion(weights=WEIGHTS, classes=CLASSES, no_object_weight=0.1, points=None):
    return SetCriterion(
        num_classes=classes,
        matcher=lambda prediction, targets: bipartite_matching(prediction, targets, weights),
        weights=weights,
        no_object_weight=no_object_weight,
        points=points,
    )


def random_case(segments, layers=3, queries=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    images, dim, size = len(segments), 6, (4, 5)

    def leaf(*shape):
        return (2 * torch.randn(*shape, generator=g)).to(dtype).requires_grad_()

    prediction = MaskPrediction(
        leaf(layers, images, queries, CLASSES + 1),
        leaf(layers, images, queries, dim),
        leaf(images, dim, *size),
    )
    targets = [
        MaskTarget(
            torch.randint(0, CLASSES, (n,), generator=g), torch.rand(n, 16, 20, generator=g) < 0.4
        )
        for n in segments
    ]
    return prediction, targets


def pad_batch(prediction, targets, value, ignored=()):
    """The batch with padding: two rows and three columns of cells, eight and twelve pixels.

    Every padded cell holds ``value``, every padded or ignored pixel is in every mask.
    """
    padded = []
    for i, target in enumerate(targets):
        valid = torch.ones(16, 20, dtype=torch.bool)
        if i in ignored:
            valid = torch.rand(16, 20, generator=torch.Generator().manual_seed(i)) < 0.7
        masks = F.pad(target.masks | ~valid, (0, 12, 0, 8), value=True)
        valid = F.pad(valid, (0, 12, 0, 8), value=True) if i in ignored else None
        padded.append(MaskTarget(target.labels, masks, valid, (16, 20)))
    maps = F.pad(prediction.pixel_embed.detach(), (0, 3, 0, 2), value=value).requires_grad_()
    return prediction._replace(pixel_features=maps), padded


def gradients(losses, prediction):
    return torch.autograd.grad(sum(losses.values()), prediction[:3])


def results(prediction, targets, points=None, seed=0):
    """Losses and gradients of a step."""
    torch.manual_seed(seed)
    losses = make_criterion(points=points)(prediction, targets)
    return torch.stack(list(losses.values())), *gradients(losses, prediction)
