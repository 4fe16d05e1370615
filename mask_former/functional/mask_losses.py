"""Focal and dice loss of binary masks, for pairs and for all combinations.

The matching cost needs every (query, segment) combination, the loss only the matched pairs. Paper,
section 3.2 and appendix A; focal loss: Lin et al. 2017; dice: Milletari et al. 2016.

``focal_loss`` and ``dice_loss`` are the formulas. The other two give the same numbers with less
memory and time; tests hold them to the formulas.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Lin et al. 2017, section 5.1, with their gamma = 2; the paper uses them for cost and loss alike.
ALPHA = 0.25
# Pixels that are scored together at full resolution: four masks of a COCO image. More would not be
# faster, and memory grows with it.
CHUNK_PIXELS = 2**22


def focal_loss(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Focal loss of each pair, averaged over pixels.

    Args:
        mask_logits: [M, P]; before the sigmoid.
        masks: [M, P]; 0 or 1, of the same floating type.

    Returns:
        [M]; at least 0.
    """
    miss = _miss_logits(mask_logits, masks)
    alpha = masks * ALPHA + (1 - masks) * (1 - ALPHA)
    return (alpha * miss.sigmoid() ** 2 * F.softplus(miss)).mean(dim=1)


def dice_loss(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Dice loss of each pair, smoothed by 1; in [0, 1). Arguments as :func:`focal_loss`."""
    prob = mask_logits.sigmoid()
    return dice_from_sums((prob * masks).sum(dim=1), prob.sum(dim=1), masks.sum(dim=1))


def dice_from_sums(overlap: Tensor, prob_area: Tensor, mask_area: Tensor) -> Tensor:
    """Dice loss from the soft overlap and the two areas."""
    return 1 - (2 * overlap + 1) / (prob_area + mask_area + 1)


def _miss_logits(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Logits of being wrong: their sigmoid is |p - mask|, their softplus the cross-entropy."""
    return mask_logits * (1 - 2 * masks)


def pairwise_mask_costs(mask_logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of every combination, without gradient.

    Their diagonals are :func:`focal_loss` and :func:`dice_loss`.

    Args:
        mask_logits: [Q, P]; before the sigmoid.
        masks: [N, P]; 0 or 1, of the same floating type.

    Returns:
        Two tensors [Q, N].
    """
    prob = mask_logits.sigmoid()
    cross_entropy = F.softplus(mask_logits)  # against background
    background = (prob * prob).mul_(cross_entropy).mul_(1 - ALPHA)
    # With x the logit, softplus(-x) = softplus(x) - x.
    foreground = (1 - prob).square_().mul_(cross_entropy.sub_(mask_logits)).mul_(ALPHA)
    # Two products of non-negative terms: one product of their difference would cancel.
    focal = foreground @ masks.T + background @ (1 - masks).T
    overlap = prob @ masks.T
    dice = dice_from_sums(overlap, prob.sum(dim=1, keepdim=True), masks.sum(dim=1)[None])
    return focal / mask_logits.shape[1], dice


def matched_mask_losses(mask_logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of each pair, at the resolution of the masks.

    As bilinear upsampling followed by :func:`focal_loss` and :func:`dice_loss`. A few masks at a
    time are upsampled, scored and, in closed form, differentiated; what is kept for the backward
    pass has the size of the logits.

    Args:
        mask_logits: [M, h, w]; before the sigmoid.
        masks: [M, H, W]; bool.

    Returns:
        Two tensors [M].
    """
    return _MatchedMaskLosses.apply(mask_logits, masks)


class _MatchedMaskLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mask_logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        losses = mask_logits.new_empty(2, len(masks))
        gradients = mask_logits.new_empty(2, *mask_logits.shape)
        for rows in _chunks(len(masks), masks.shape[-2:].numel()):
            losses[:, rows], gradients[:, rows] = _score(mask_logits[rows], masks[rows])
        ctx.save_for_backward(gradients)
        return losses[0], losses[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_focal: Tensor, grad_dice: Tensor) -> tuple[Tensor, None]:
        focal, dice = ctx.saved_tensors[0]
        return focal * grad_focal[:, None, None] + dice * grad_dice[:, None, None], None


def _chunks(num_masks: int, pixels: int) -> Iterator[slice]:
    step = max(1, CHUNK_PIXELS // pixels)
    for start in range(0, num_masks, step):
        yield slice(start, start + step)


def _score(mask_logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [2, m] and their gradients [2, m, h, w]: focal, then dice.

    With d = |p - mask|, ce the cross-entropy and s = 1 - 2 mask:
    d focal / d logit = s alpha d^2 (2 (1 - d) ce + d) / P, d p / d logit = d (1 - d).
    """
    size, pixels = masks.shape[-2:], masks.shape[-2:].numel()
    mask = masks.flatten(1).to(mask_logits.dtype)  # [m, P]
    miss = _upsample(mask_logits, size).flatten(1).mul_(1 - 2 * mask)
    wrong = miss.sigmoid()  # d
    cross_entropy = F.softplus(miss)
    square = torch.mul(wrong, wrong, out=miss)

    weighted = square * cross_entropy
    focal = (1 - ALPHA) * weighted.sum(dim=1) + (2 * ALPHA - 1) * _dot(weighted, mask)
    mask_area, wrong_inside = mask.sum(dim=1), _dot(wrong, mask)
    overlap = mask_area - wrong_inside
    prob_area = overlap + wrong.sum(dim=1) - wrong_inside
    dice = dice_from_sums(overlap, prob_area, mask_area)

    right = torch.sub(1, wrong, out=weighted)
    focal_gradient = cross_entropy.mul_(right).mul_(2).add_(wrong).mul_(square)
    focal_gradient.mul_((1 - ALPHA) - mask).div_(pixels)  # s alpha: 0.75 outside, -0.25 inside
    slope = right.mul_(wrong)  # d p / d logit
    total = (prob_area + mask_area + 1)[:, None]
    dice_gradient = slope.mul_((2 * overlap[:, None] + 1) / total.square() - 2 / total * mask)
    gradients = torch.stack([focal_gradient, dice_gradient]).unflatten(-1, size)
    return torch.stack([focal / pixels, dice]), _upsample_backward(gradients, mask_logits.shape)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum over the last axis of the product [m, P] * [m, P], without forming it."""
    return (a[:, None] @ b[:, :, None])[:, 0, 0]


def _upsample(mask_logits: Tensor, size: torch.Size) -> Tensor:
    """Bilinear, [m, h, w] to [m, H, W]."""
    # Along the channel axis it is twice as fast on a CPU as along the batch axis.
    return F.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0]


def _upsample_backward(gradients: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of :func:`_upsample`; gradients [2, m, H, W], result [2, m, h, w]."""
    return torch.ops.aten.upsample_bilinear2d_backward(
        gradients, gradients.shape[-2:], [len(gradients), *shape], False
    )
