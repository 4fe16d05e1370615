"""The contest of general inference: which query owns a pixel, and what that leaves to each.

Queries that are sure of a class compete by class probability times mask probability (paper,
section 3.4); all stays on the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mask_former.functional.resampling import LazyMasks, as_lazy, bands, leading


class Candidates(NamedTuple):
    """The queries that are sure of a class, in their order; then, on an accelerator, the others."""

    labels: Tensor
    """[n]; 0..K."""
    scores: Tensor
    """[n]; class probability, or -1 for others, who own nothing beside a candidate."""
    masks: LazyMasks
    """n of them."""


class Contest(NamedTuple):
    """What is left to each of n candidates."""

    owner: Tensor
    """[h, w]; int32, which of them has the pixel."""
    area: Tensor
    """[n]; pixels owned."""
    valid: Tensor
    """[n]; bool, whether enough of the mask is left."""


def find_candidates(
    class_logits: Tensor, mask_logits: Tensor | LazyMasks, threshold: float
) -> Candidates:
    """Those whose class probability is higher than a threshold.

    On an accelerator the others follow: to count the sure ones would be a transfer of its own.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        mask_logits: [Q, h, w]; before the sigmoid.
        threshold: in [0, 1].
    """
    masks = as_lazy(mask_logits)
    scores, labels = class_logits.to(masks.dtype).softmax(dim=-1).max(dim=-1)
    sure = (labels != class_logits.shape[-1] - 1) & (scores > threshold)
    scores = scores.where(sure, -1)
    queries = leading(sure, room=len(sure))
    return Candidates(labels[queries], scores[queries], masks.select(queries))


def compete(candidates: Candidates, overlap_threshold: float) -> Contest:
    """Who owns each pixel, and who keeps enough of its mask, at least this part."""
    _, scores, masks = candidates
    owner = scores.new_empty(masks.size, dtype=torch.int32)
    areas = torch.zeros(2, len(scores), dtype=torch.int64, device=scores.device)
    # Beside the masks a band holds their maximum, the owners and ones, the latter twice as wide.
    for start, stop in bands(masks.size, masks.number + 5, 1, scores.device):
        areas += _compete_in_band(candidates, start, owner[start:stop])
    area, original_area = areas
    # The ratio is taken as the original takes it, in double precision.
    enough = area.double() / original_area.double() >= overlap_threshold
    return Contest(owner, area, (scores >= 0) & (area > 0) & (original_area > 0) & enough)


def _compete_in_band(candidates: Candidates, start: int, owner: Tensor) -> Tensor:
    """Fills in the owners of some rows; returns owned and original areas there, [2, n]."""
    probs = candidates.masks.rows(start, start + len(owner)).sigmoid_()
    # Of equals max takes the first; unlike argmax, it is vectorised on a CPU.
    owners = (probs * candidates.scores[:, None, None]).max(dim=0).indices
    owner.copy_(owners)
    # Not bincount, which reads from the device. A row each, so that few threads collide.
    counts = owners.new_zeros(len(owners), len(probs))
    area = counts.scatter_add_(1, owners, torch.ones_like(owners)).sum(dim=0)
    return torch.stack([area, probs.ge_(0.5).sum(dim=(1, 2)).long()])
