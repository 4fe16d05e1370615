"""Which query answers for which segment: matching cost, bipartite and fixed assignment.

Paper, section 3.2: the assignment of minimal cost between the N segments of an image and the
queries, found for every decoder layer on its own; or, for semantic segmentation, the fixed one in
which every class has its query.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..structures import LossWeights, MaskPrediction, MaskTarget
from .mask_losses import pairwise_mask_costs
from .padding import crop_to_image
from .targets import resize_masks


class Matches(NamedTuple):
    """The matched pairs of all layers and images, as four index vectors [M] (int64).

    They are ordered by image, then by layer, then by query.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor
    """Index among the segments of its image."""
    per_image: list[int]
    """Number of pairs of each image; plain numbers, so that no one has to ask the device."""


class CostTerms(NamedTuple):
    """The unweighted terms of the matching cost of one image, each [L, Q, N]."""

    classification: Tensor
    mask: Tensor
    dice: Tensor

    def weighted_sum(self, weights: LossWeights) -> Tensor:
        """The matching cost [L, Q, N]."""
        return (
            weights.mask * self.mask
            + weights.classification * self.classification
            + weights.dice * self.dice
        )


def matching_cost(
    class_logits: Tensor, mask_embed: Tensor, pixel_embed: Tensor, target: MaskTarget
) -> CostTerms:
    """The terms of the matching cost of one image, for all its layers (paper, section 3.2).

    The segments are compared at the resolution of the embeddings, by the valid cells of the image.

    Args:
        class_logits: [L, Q, K+1]; before the softmax.
        mask_embed: [L, Q, D]
        pixel_embed: [D, h, w]
        target: the N segments of the image.
    """
    pixel_embed, target = within_image(pixel_embed, target)
    height, width = pixel_embed.shape[-2:]
    num_classes = class_logits.shape[-1] - 1
    labels = target.labels.clamp(0, num_classes)
    class_cost = -class_logits.softmax(dim=-1)[:, :, labels]  # [L, Q, N]
    # A label that is no class is told where costs are read; to look at it here would be a read.
    class_cost = class_cost.where((labels == target.labels) & (labels < num_classes), torch.nan)
    masks = resize_masks(target.masks, (height, width)).flatten(1).to(pixel_embed)
    valid = target.valid
    if valid is not None:
        valid = resize_masks(valid[None], (height, width)).flatten()
    pixels = pixel_embed.flatten(1)  # [D, P]
    # A layer at a time: the logits of all would be the largest tensor of a training step.
    costs = [pairwise_mask_costs(embed @ pixels, masks, valid) for embed in mask_embed]
    mask_cost, dice_cost = (torch.stack(cost) for cost in zip(*costs, strict=True))
    return CostTerms(class_cost, mask_cost, dice_cost)


def within_image(pixel_embed: Tensor, target: MaskTarget) -> tuple[Tensor, MaskTarget]:
    """Embeddings and target of one image without the cells that are padding alone.

    Args:
        pixel_embed: [D, h, w]
        target: masks [N, H, W]; with ``size``, else nothing changes.

    Returns:
        Views of the cells that hold a pixel of the image, and of the pixels that they cover; those
        beyond the image are not valid. The target has no ``size``.
    """
    if target.size is None:
        return pixel_embed, target
    padded = (target.masks.shape[-2], target.masks.shape[-1])
    pixel_embed, covered = crop_to_image(pixel_embed, target.size, padded)
    masks = target.masks[:, : covered[0], : covered[1]]
    valid = target.valid if target.valid is None else target.valid[: covered[0], : covered[1]]
    if covered != tuple(target.size):  # the last cells reach into the padding
        valid = masks.new_ones(covered) if valid is None else valid.clone()
        valid[target.size[0] :] = False
        valid[:, target.size[1] :] = False
    return pixel_embed, MaskTarget(target.labels, masks, valid)


@torch.no_grad()
def bipartite_matching(
    prediction: MaskPrediction, targets: Sequence[MaskTarget], weights: LossWeights
) -> Matches:
    """Finds the assignment of minimal cost for every layer and image.

    ``min(Q, N)`` pairs an image: with more segments than queries the surplus stays unmatched.
    All costs reach the CPU in one transfer.

    Args:
        prediction: what the model gives for B images.
        targets: those of the B images, on the device of the prediction.
        weights: weights of the cost terms.

    Raises:
        ValueError: a label is no class, or a cost is not finite; names the image, and the term and
            the layer of the cost.
    """
    pixel_embed = prediction.pixel_embed

    def terms(image: int) -> CostTerms:
        return matching_cost(
            prediction.class_logits[:, image],
            prediction.mask_embed[:, image],
            pixel_embed[image],
            targets[image],
        )

    costs = [terms(image).weighted_sum(weights) for image in range(len(targets))]
    shapes = [cost.shape for cost in costs]
    flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
    if not np.isfinite(flat).all():
        _check_labels([target.labels for target in targets], prediction.class_logits.shape[-1] - 1)
        raise ValueError(_describe_non_finite([terms(image) for image in range(len(targets))]))
    ends = np.cumsum([shape.numel() for shape in shapes])[:-1]
    matrices = [
        part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)
    ]
    return _assign(matrices, prediction.class_logits.device)


@torch.no_grad()
def fixed_matching(prediction: MaskPrediction, targets: Sequence[MaskTarget]) -> Matches:
    """Query k answers for class k, in every layer and image (paper, section 3.2).

    For semantic targets, of which a class has at most one. All labels reach the CPU in one
    transfer.

    Args:
        prediction: what the model gives for B images, with a query for each class.
        targets: those of the B images.

    Raises:
        ValueError: a label is no class, or a class has two segments in one image, or no query;
            names the image.
    """
    layers, _, num_queries, num_logits = prediction.class_logits.shape
    counts = [len(target.labels) for target in targets]
    labels = torch.cat([target.labels for target in targets]).cpu().split(counts)
    _check_labels(labels, num_logits - 1)
    rows = []
    for i, classes in enumerate(labels):
        _check_one_query_each(i, classes, num_queries)
        query, target = classes.sort()
        pairs = torch.stack([torch.full_like(query, i), query, target]).repeat(1, layers)
        rows.append(torch.cat([torch.arange(layers).repeat_interleave(len(query))[None], pairs]))
    pairs = torch.cat(rows, dim=1).to(prediction.class_logits.device, non_blocking=True)
    layer, image, query, target = pairs
    return Matches(layer, image, query, target, [layers * count for count in counts])


def _check_labels(labels: Sequence[Tensor], num_classes: int) -> None:
    for image, classes in enumerate(labels):
        wrong = classes[(classes < 0) | (classes >= num_classes)]
        if len(wrong):
            raise ValueError(
                f"image {image} of the batch has a segment of class {int(wrong[0])}, but the "
                f"classes are 0 to {num_classes - 1}"
            )


def _check_one_query_each(image: int, classes: Tensor, num_queries: int) -> None:
    if (classes >= num_queries).any():
        raise ValueError(
            f"image {image} of the batch has class {int(classes.max())}, but there are only "
            f"{num_queries} queries; fixed matching needs a query for each class"
        )
    found, count = classes.unique(return_counts=True)
    if (count > 1).any():
        raise ValueError(
            f"image {image} of the batch has {int(count.max())} segments of class "
            f"{int(found[count.argmax()])}; fixed matching has one query a class: take the "
            "semantic mapper, or bipartite matching"
        )


def _assign(costs: Sequence[np.ndarray], device: torch.device) -> Matches:
    """Solves every layer of every image; costs: B arrays [L, Q, N]."""
    rows, per_image = [], []
    for image, image_cost in enumerate(costs):
        for layer, cost in enumerate(image_cost):
            queries, segments = linear_sum_assignment(cost)
            index = np.broadcast_to([[layer], [image]], (2, len(queries)))
            rows.append(np.concatenate([index, [queries, segments]]))
        per_image.append(len(image_cost) * min(image_cost.shape[1:]))
    pairs = torch.tensor(np.concatenate(rows, axis=1))  # [4, M]
    layer, image, query, target = pairs.to(device, non_blocking=True)
    return Matches(layer, image, query, target, per_image)


def _describe_non_finite(terms: Sequence[CostTerms]) -> str:
    for image, image_terms in enumerate(terms):
        for name, term in zip(CostTerms._fields, image_terms, strict=True):
            finite = term.isfinite().flatten(1).all(dim=1)
            if not finite.all():
                layer = int((~finite).nonzero()[0])
                return (
                    f"the {name} term of the matching cost is not finite (NaN or infinite) for "
                    f"image {image} of the batch, decoder layer {layer}; the model has diverged: "
                    "lower the learning rate, or train without mixed precision"
                )
    return "the weighted matching cost overflows float32; check the loss weights"
