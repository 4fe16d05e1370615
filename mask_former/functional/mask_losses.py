"""Focal and dice loss of binary masks, for pairs and for all combinations.

The matching cost needs every (query, segment) combination, the loss only the matched pairs. Paper,
section 3.2 and appendix A; focal loss: Lin et al. 2017; dice: Milletari et al. 2016.

``focal_loss`` and ``dice_loss`` are the formulas. The other two give the same numbers with less
memory and time; tests hold them to the formulas.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Lin et al. 2017, section 5.1, with their gamma = 2; the paper uses them for cost and loss alike.
ALPHA = 0.25
# Pixels that are scored together at full resolution. On a CPU two masks of a COCO image: with more,
# memory grows, and time too, as the allocator returns larger buffers to the system every time. On
# an accelerator enough that launching kernels is not what takes the time.
CACHED_PIXELS = 2**21
LAUNCHED_PIXELS = 2**24

Shares = tuple[Tensor, Tensor] | None
"""What each of a cell's pixels gives to the cell before, to its own and to the next, for rows and
for columns, each [3, factor], where a cell becomes ``factor`` pixels that are linearly
interpolated; None where factors are not whole."""


def focal_loss(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Focal loss of each pair, averaged over pixels.

    Args:
        mask_logits: [M, P]; before the sigmoid.
        masks: [M, P]; 0 or 1, of the same floating type.

    Returns:
        [M]; at least 0.
    """
    # Logits of being wrong: their sigmoid is |p - mask|, their softplus the cross-entropy.
    miss = mask_logits * (1 - 2 * masks)
    alpha = masks * ALPHA + (1 - masks) * (1 - ALPHA)
    return (alpha * miss.sigmoid() ** 2 * F.softplus(miss)).mean(dim=1)


def dice_loss(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Dice loss of each pair, smoothed by 1; in [0, 1). Arguments as :func:`focal_loss`."""
    prob = mask_logits.sigmoid()
    return dice_from_sums((prob * masks).sum(dim=1), prob.sum(dim=1), masks.sum(dim=1))


def dice_from_sums(overlap: Tensor, prob_area: Tensor, mask_area: Tensor) -> Tensor:
    """Dice loss from the soft overlap and the two areas."""
    return 1 - (2 * overlap + 1) / (prob_area + mask_area + 1)


def pairwise_mask_costs(
    mask_logits: Tensor, masks: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of every combination, without gradient.

    Their diagonals are :func:`focal_loss` and :func:`dice_loss`.

    Args:
        mask_logits: [Q, P]; before the sigmoid.
        masks: [N, P]; 0 or 1, of the same floating type.
        valid: [P], bool; the pixels that count. None: all.

    Returns:
        Two tensors [Q, N].
    """
    weights = None if valid is None else valid.to(masks)
    inside, outside = masks, 1 - masks
    if weights is not None:
        inside, outside = inside * weights, outside * weights
    prob = mask_logits.sigmoid()
    cross_entropy = F.softplus(mask_logits)  # against background
    background = (prob * prob).mul_(cross_entropy).mul_(1 - ALPHA)
    # Against foreground it is softplus(-x) = softplus(x) - x, x being the logit.
    foreground = (1 - prob).square_().mul_(cross_entropy.sub_(mask_logits)).mul_(ALPHA)
    # Two products of non-negative terms: one product of their difference would cancel.
    focal = foreground @ inside.T + background @ outside.T
    prob_area = prob.sum(dim=1) if weights is None else prob @ weights
    dice = dice_from_sums(prob @ inside.T, prob_area[:, None], inside.sum(dim=1)[None])
    pixels = mask_logits.shape[1] if weights is None else weights.sum().clamp(min=1)
    return focal / pixels, dice


def matched_mask_losses(
    mask_logits: Tensor,
    masks: Tensor,
    index: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of each pair, at the resolution of the masks.

    As bilinear upsampling followed by :func:`focal_loss` and :func:`dice_loss`. A few masks at a
    time are upsampled, scored and, in closed form, differentiated; what is kept for the backward
    pass has the size of the logits.

    Args:
        mask_logits: [M, h, w]; before the sigmoid.
        masks: [N, H, W]; bool.
        index: [M], the mask of each pair; they are copied a few at a time. None: N = M, in order.
        valid: [H, W] or [M, H, W], bool; the pixels that count, of all pairs or of each. None: all.

    Returns:
        Two tensors [M].
    """
    if valid is not None:
        valid = valid.expand(len(mask_logits), *masks.shape[-2:])
    return _MatchedMaskLosses.apply(mask_logits, masks, index, valid)


class _MatchedMaskLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mask_logits: Tensor, masks: Tensor, index: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        losses = mask_logits.new_empty(2, len(mask_logits))
        gradients = mask_logits.new_empty(2, *mask_logits.shape)
        together = CACHED_PIXELS if mask_logits.device.type == "cpu" else LAUNCHED_PIXELS
        step = max(1, together // masks.shape[-2:].numel())
        shares = _shares_of_axes(mask_logits, masks.shape[-2:])
        for start in range(0, len(mask_logits), step):
            rows = slice(start, start + step)
            losses[:, rows], gradients[:, rows] = _score(
                mask_logits[rows],
                masks[rows if index is None else index[rows]],
                None if valid is None else valid[rows],
                shares,
            )
        ctx.save_for_backward(gradients)
        return losses[0], losses[1]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_focal: Tensor, grad_dice: Tensor
    ) -> tuple[Tensor, None, None, None]:
        focal, dice = ctx.saved_tensors[0]
        gradient = focal * grad_focal[:, None, None]
        return gradient.addcmul_(dice, grad_dice[:, None, None]), None, None, None


def _score(
    mask_logits: Tensor, masks: Tensor, valid: Tensor | None, shares: Shares
) -> tuple[Tensor, Tensor]:
    """Losses [2, m] and their gradients [2, m, h, w]: focal, then dice."""
    size = masks.shape[-2:]
    mask = (masks if valid is None else masks & valid).to(mask_logits.dtype).flatten(1)  # [m, P]
    # Masks along the channel axis are resized twice as fast on a CPU as along the batch axis.
    logits = F.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0]
    miss = logits.flatten(1).mul_(torch.rsub(mask, 1, alpha=2))
    share = mask.new_full((1,), 1 / mask.shape[1])
    if valid is not None:
        miss.masked_fill_(~valid.flatten(1), -torch.inf)  # never wrong: d, ce and gradients are 0
        share = valid.sum(dim=(1, 2)).clamp(min=1).to(mask.dtype).reciprocal()
    losses, at_pixels = _score_pixels(miss, mask)
    small = mask_logits.shape[-2:]
    gradients = torch.stack(
        [_upsample_backward(x.unflatten(1, size), small, shares) for x in at_pixels]
    )
    losses[0].mul_(share)
    gradients[0].mul_(share[:, None, None])
    return losses, gradients


def _score_pixels(miss: Tensor, mask: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Losses [2, m] of focal (as a sum) and dice, and their gradients [2, m, P] by the mask logits.

    With d = |p - mask| and ce the cross-entropy. A pass over the pixels costs more than the
    arithmetic in it, so there are few, and few buffers; ``miss`` becomes one of them.
    """
    gradients = torch.empty_like(miss), torch.empty_like(miss)
    wrong, cross_entropy = miss.sigmoid(), F.softplus(miss)  # d, ce
    square = torch.mul(wrong, wrong, out=miss)
    weighted = torch.mul(square, cross_entropy, out=gradients[1])
    focal = (1 - ALPHA) * weighted.sum(dim=1)
    focal += (2 * ALPHA - 1) * weighted.mul_(mask).sum(dim=1)
    mask_area, wrong_area = mask.sum(dim=1), wrong.sum(dim=1)
    wrong_inside = torch.mul(wrong, mask, out=weighted).sum(dim=1)
    # Inside the mask p = 1 - d, outside p = d, so that the sums of p m and of p follow from those
    # of d.
    overlap = mask_area - wrong_inside
    prob_area = overlap + wrong_area - wrong_inside
    dice = dice_from_sums(overlap, prob_area, mask_area)

    # Dice: the derivative of the quotient by p, times that of p by the logit, which is
    # p (1 - p) = d (1 - d).
    slope = torch.sub(wrong, square, out=gradients[1])
    total = (prob_area + mask_area + 1)[:, None]
    slope.mul_(torch.addcmul((2 * overlap[:, None] + 1) / total**2, mask, -2 / total))
    # Focal: by the logit of being wrong d has the derivative d (1 - d) and ce has d, so that d^2 ce
    # has d^2 (2 (1 - d) ce + d). With alpha, and the sign that this logit has inside the mask, the
    # factor is 0.75 outside and -0.25 inside.
    right_ce = cross_entropy.addcmul_(cross_entropy, wrong, value=-1)
    torch.add(wrong, right_ce, alpha=2, out=gradients[0]).mul_(square)
    gradients[0].mul_(torch.sub(1 - ALPHA, mask, out=square))
    return torch.stack([focal, dice]), gradients


def _upsample_backward(gradient: Tensor, size: torch.Size, shares: Shares) -> Tensor:
    """The transpose of bilinear upsampling; gradient [m, H, W], result [m, h, w]."""
    (h, w), (m, height, width) = size, gradient.shape
    if (h, w) == (height, width):
        return gradient
    if shares is None:
        return torch.ops.aten.upsample_bilinear2d_backward(
            gradient[None], (height, width), [1, m, h, w], False
        )[0]
    # Whole factors: a pixel gives to its own cell and one neighbour, by shares that are the same
    # for all cells. Six times as fast on a CPU, and on a GPU without atomic additions.
    weights = shares[0].expand(m * h, 3, -1)
    rows = torch.bmm(weights, gradient.reshape(m * h, -1, width)).view(m, h, 3, width)
    rows = _joined(*rows.unbind(2))  # [m, h, W]
    columns = rows.view(m * h * w, -1) @ shares[1].T
    return _joined(*(part.mT for part in columns.view(m, h, w, 3).unbind(3))).mT


def _shares_of_axes(maps: Tensor, size: torch.Size) -> Shares:
    """The shares by which maps [m, h, w] that were upsampled to a size (H, W) get gradients."""
    height, width = maps.shape[-2:]
    if size[0] % height or size[1] % width:
        return None

    def shares(factor: int) -> Tensor:
        pixels = torch.arange(factor, dtype=maps.dtype, device=maps.device)
        cells = torch.arange(-1, 2, dtype=maps.dtype, device=maps.device)
        # The centre of a pixel, in cells from that of its own; shares fall to 0 a cell away.
        position = (pixels + 0.5) / factor - 0.5
        return (1 - (position - cells[:, None]).abs()).clamp(min=0)

    return shares(size[0] // height), shares(size[1] // width)


def _joined(before: Tensor, own: Tensor, after: Tensor) -> Tensor:
    """Sums of the shares of neighbours, [m, n, other]; those beyond the border fall on it."""
    joined = own.clone()
    joined[:, :-1] += before[:, 1:]
    joined[:, 1:] += after[:, :-1]
    joined[:, 0] += before[:, 0]
    joined[:, -1] += after[:, -1]
    return joined
