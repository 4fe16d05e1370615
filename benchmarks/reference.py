"""The plain reference that benchmarks compare with: the original's steps, one after another.

Criterion: masks of all queries of all layers, one matcher call for each layer and image, one
interpolation of the matched masks of each layer. Inference: masks of all queries upsampled, a loop
over the queries. Standard torch operations only; equal to the golden numbers, by test. It is
fixed: figures of different days are ratios to the same thing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

Pairs = list[tuple[Tensor, Tensor]]
"""Matched queries and segments of each image."""


def criterion(
    prediction: MaskPrediction,
    targets: list[MaskTarget],
    weights: LossWeights,
    empty_weight: Tensor,
) -> dict[str, Tensor]:
    """Weighted losses of all layers; targets are of one size, empty_weight [K+1] of classes."""
    # [L, B, Q, h, w]
    masks = torch.einsum("lbqd,bdhw->lbqhw", prediction.mask_embed, prediction.pixel_embed)
    num_masks = max(sum(len(target.labels) for target in targets), 1)
    layers = len(masks)
    losses = {}
    for layer in [layers - 1, *range(layers - 1)]:
        suffix = "" if layer == layers - 1 else f"_{layer}"
        class_logits, mask_logits = prediction.class_logits[layer], masks[layer]
        pairs = match(class_logits, mask_logits, targets, weights)
        ce = classification_loss(class_logits, targets, pairs, empty_weight)
        focal, dice = mask_losses(mask_logits, targets, pairs, num_masks)
        losses[f"loss_ce{suffix}"] = weights.classification * ce
        losses[f"loss_mask{suffix}"] = weights.mask * focal
        losses[f"loss_dice{suffix}"] = weights.dice * dice
    return losses


@torch.no_grad()
def match(
    class_logits: Tensor, mask_logits: Tensor, targets: list[MaskTarget], weights: LossWeights
) -> Pairs:
    """The assignment of each image; class_logits [B, Q, K+1], mask_logits [B, Q, h, w]."""
    pairs = []
    for logits, masks, target in zip(class_logits, mask_logits, targets, strict=True):
        class_cost = -logits.softmax(-1)[:, target.labels]
        gt = F.interpolate(target.masks[:, None].to(masks), masks.shape[-2:], mode="nearest")
        x, g = masks.flatten(1), gt.flatten(1)
        focal, dice = pairwise_focal(x, g), pairwise_dice(x, g)
        cost = weights.mask * focal + weights.classification * class_cost + weights.dice * dice
        query, index = linear_sum_assignment(cost.cpu().numpy())
        pairs.append((torch.as_tensor(query), torch.as_tensor(index)))
    return pairs


def pairwise_focal(x: Tensor, g: Tensor) -> Tensor:
    """Focal cost [Q, N] of logits [Q, P] and masks [N, P]."""
    p, entropy = x.sigmoid(), F.binary_cross_entropy_with_logits
    one = 0.25 * (1 - p) ** 2 * entropy(x, torch.ones_like(x), reduction="none")
    zero = 0.75 * p**2 * entropy(x, torch.zeros_like(x), reduction="none")
    cost = torch.einsum("qp,np->qn", one, g) + torch.einsum("qp,np->qn", zero, 1 - g)
    return cost / x.shape[1]


def pairwise_dice(x: Tensor, g: Tensor) -> Tensor:
    """Dice cost [Q, N] of logits [Q, P] and masks [N, P]."""
    p = x.sigmoid()
    numerator, denominator = 2 * torch.einsum("qp,np->qn", p, g), p.sum(-1)[:, None] + g.sum(-1)
    return 1 - (numerator + 1) / (denominator + 1)


def classification_loss(
    class_logits: Tensor, targets: list[MaskTarget], pairs: Pairs, empty_weight: Tensor
) -> Tensor:
    """Weighted cross-entropy; class_logits [B, Q, K+1]."""
    no_object = class_logits.shape[-1] - 1
    classes = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
    for b, ((query, index), target) in enumerate(zip(pairs, targets, strict=True)):
        classes[b, query] = target.labels[index]
    return F.cross_entropy(class_logits.transpose(1, 2), classes, empty_weight.to(class_logits))


def mask_losses(
    mask_logits: Tensor, targets: list[MaskTarget], pairs: Pairs, num_masks: int
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of the matched masks at full size; mask_logits [B, Q, h, w]."""
    image = torch.cat([torch.full_like(query, b) for b, (query, _) in enumerate(pairs)])
    query = torch.cat([query for query, _ in pairs])
    matched = mask_logits[image, query]
    gt = torch.cat([t.masks[index] for (_, index), t in zip(pairs, targets, strict=True)])
    g = gt.to(matched).flatten(1)
    if len(g) == 0:
        return matched.sum() * 0, matched.sum() * 0
    large = F.interpolate(
        matched[:, None], size=gt.shape[-2:], mode="bilinear", align_corners=False
    )
    x = large[:, 0].flatten(1)
    p = x.sigmoid()
    ce = F.binary_cross_entropy_with_logits(x, g, reduction="none")
    p_t = p * g + (1 - p) * (1 - g)
    alpha_t = 0.25 * g + (1 - 0.25) * (1 - g)
    focal = (alpha_t * (1 - p_t) ** 2 * ce).mean(1).sum() / num_masks
    numerator = 2 * (p * g).sum(-1)
    denominator = p.sum(-1) + g.sum(-1)
    dice = (1 - (numerator + 1) / (denominator + 1)).sum() / num_masks
    return focal, dice


def results(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    size: tuple[int, int],
    output: tuple[int, int],
    *,
    semantic: bool,
    panoptic: bool,
    thing_ids: frozenset[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> dict[str, Any]:
    """The result of one image of a size within a padded one; panoptic resizes masks, not scores.

    class_logits are [Q, K+1], mask_logits [Q, h, w]; the last three as in ``panoptic_inference``.
    """
    masks = resize(mask_logits, padded)
    result: dict[str, Any] = {}
    if panoptic:
        masks = resize(masks[:, : size[0], : size[1]], output)
        thresholds = (object_mask_threshold, overlap_threshold)
        result["panoptic_seg"] = panoptic_loop(class_logits, masks, thing_ids, *thresholds)
    if semantic:
        scores = semantic_scores(class_logits, masks)
        if not panoptic:
            scores = resize(scores[:, : size[0], : size[1]], output)
        result["sem_seg"] = scores
    return result


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, [n, h, w] to [n, *size]."""
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Scores [K, h, w]."""
    probs = F.softmax(class_logits, dim=-1)[..., :-1]
    return torch.einsum("qc,qhw->chw", probs, mask_logits.sigmoid())


def panoptic_loop(
    class_logits: Tensor,
    mask_logits: Tensor,
    thing_ids: frozenset[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """One query after another, each with its own transfers from the device."""
    scores, labels = F.softmax(class_logits, dim=-1).max(-1)
    masks = mask_logits.sigmoid()
    keep = labels.ne(class_logits.shape[-1] - 1) & (scores > object_mask_threshold)
    scores, labels, masks = scores[keep], labels[keep], masks[keep]
    ids = torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device)
    segments: list[dict[str, Any]] = []
    if len(masks) == 0:
        return ids, segments
    owner = (scores.view(-1, 1, 1) * masks).argmax(0)
    stuff: dict[int, int] = {}
    for k in range(len(labels)):
        label = int(labels[k].item())
        area, original = (owner == k).sum().item(), (masks[k] >= 0.5).sum().item()
        if area == 0 or original == 0 or area / original < overlap_threshold:
            continue
        is_thing = label in thing_ids
        if not is_thing and label in stuff:
            ids[owner == k] = stuff[label]
            continue
        segments.append({"id": len(segments) + 1, "isthing": is_thing, "category_id": label})
        ids[owner == k] = len(segments)
        if not is_thing:
            stuff[label] = len(segments)
    return ids, segments
