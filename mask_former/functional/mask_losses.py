"""Focal and dice loss of binary masks, for pairs and for all combinations.

The matching cost needs every (query, segment) combination, the loss only the matched pairs; both
are built on the same terms. Paper, section 3.2 and appendix A; focal loss: Lin et al. 2017;
dice: Milletari et al. 2016.
"""

import torch.nn.functional as F
from torch import Tensor

# Lin et al. 2017, section 5.1; the paper uses them for cost and loss alike.
ALPHA = 0.25
GAMMA = 2.0


def focal_terms(mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """What each pixel would cost if it were foreground, and if it were background.

    Args:
        mask_logits: any shape; before the sigmoid.

    Returns:
        Two tensors of that shape, both at least 0.
    """
    prob = mask_logits.sigmoid()
    foreground = ALPHA * (1 - prob) ** GAMMA * F.softplus(-mask_logits)
    background = (1 - ALPHA) * prob**GAMMA * F.softplus(mask_logits)
    return foreground, background


def dice_from_sums(overlap: Tensor, prob_area: Tensor, mask_area: Tensor) -> Tensor:
    """Dice loss from the soft overlap and the two areas, smoothed by 1; in [0, 1)."""
    return 1 - (2 * overlap + 1) / (prob_area + mask_area + 1)


def focal_loss(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Focal loss of each pair, averaged over pixels.

    Args:
        mask_logits: [M, P]; before the sigmoid.
        masks: [M, P]; in [0, 1], of the same floating type.

    Returns:
        [M]; at least 0.
    """
    foreground, background = focal_terms(mask_logits)
    return (foreground * masks + background * (1 - masks)).mean(dim=1)


def dice_loss(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Dice loss of each pair; arguments and result as in :func:`focal_loss`."""
    prob = mask_logits.sigmoid()
    return dice_from_sums((prob * masks).sum(dim=1), prob.sum(dim=1), masks.sum(dim=1))


def pairwise_focal_cost(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Focal loss of every combination; its diagonal is :func:`focal_loss`.

    Args:
        mask_logits: [Q, P]; before the sigmoid.
        masks: [N, P]; in [0, 1], of the same floating type.

    Returns:
        [Q, N]; at least 0.
    """
    foreground, background = focal_terms(mask_logits)
    # Two products of non-negative terms: one product of their difference would cancel.
    return (foreground @ masks.T + background @ (1 - masks).T) / mask_logits.shape[1]


def pairwise_dice_cost(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Dice loss of every combination; arguments and result as in :func:`pairwise_focal_cost`."""
    prob = mask_logits.sigmoid()
    return dice_from_sums(prob @ masks.T, prob.sum(dim=1)[:, None], masks.sum(dim=1)[None, :])
