"""Semantic scores and labels from class and mask predictions (paper, section 3.4).

Semantic inference marginalises over all queries; general inference takes those alone that win in
the contest for the pixels. Results are formed a band of rows at a time. Numbers are float32, or
float64 if the input is. Nothing here keeps gradients.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .lazy_masks import LazyMasks, Size, as_lazy, bands, resizes
from .panoptic import compete


@torch.no_grad()
def semantic_inference(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    output: Size | None = None,
    labels: bool = False,
) -> Tensor:
    """Marginalises over the queries: class probability times mask probability, summed.

    Args:
        class_logits: [Q, K+1]; before the softmax.
        mask_logits: [Q, h, w]; before the sigmoid.
        output: (H, W) that the scores are resized to; None: they stay (h, w).
        labels: give the class of the highest score instead of the scores.

    Returns:
        Scores [K, H, W]; at least 0, not normalised: sums above 1 occur. Or labels [H, W] (int64).
    """
    masks = as_lazy(mask_logits).formed()
    class_logits = class_logits.to(masks.pixel_features.device, masks.dtype)
    class_probs = class_logits.softmax(dim=-1)[:, :-1].T  # [K, Q]

    def scores(logits: Tensor) -> Tensor:
        return (class_probs @ logits.sigmoid().flatten(1)).view(-1, *logits.shape[1:])

    return _collect(scores, len(class_probs), masks, output or masks.size, labels)


@torch.no_grad()
def general_semantic_inference(
    class_logits: Tensor,
    mask_logits: Tensor | LazyMasks,
    object_mask_threshold: float,
    overlap_threshold: float,
    output: Size | None = None,
    labels: bool = False,
) -> Tensor:
    """Semantic scores of the queries that general inference keeps.

    Arguments as :func:`~mask_former.functional.panoptic.panoptic_inference` and
    :func:`semantic_inference` have them.

    Returns:
        Scores [K, H, W] in [0, 1]: for each class the highest class probability times mask
        probability of its queries; 0 where it has none. Or labels [H, W] (int64).
    """
    contest = compete(class_logits, mask_logits, object_mask_threshold, overlap_threshold)
    num_classes = class_logits.shape[-1] - 1
    device = contest.owner.device
    weights = (contest.scores * contest.kept).to(device)[:, None, None]
    classes = contest.labels.to(device)[:, None, None]

    def scores(logits: Tensor) -> Tensor:
        weighted = logits.sigmoid().mul_(weights)
        none = weighted.new_zeros(num_classes, *weighted.shape[1:])
        return none.scatter_reduce_(0, classes.expand_as(weighted), weighted, reduce="amax")

    return _collect(scores, num_classes, contest.masks, output or contest.masks.size, labels)


def _collect(
    scores: Callable[[Tensor], Tensor],
    num_classes: int,
    masks: LazyMasks,
    output: Size,
    labels: bool,
) -> Tensor:
    """Semantic scores [K, H, W] of all rows, or labels [H, W].

    Args:
        scores: mask logits [Q, rows, w] to the scores [K, rows, w].
        num_classes: K.
        masks: Q of them, formed.
        output: (H, W) that the scores are resized to.
        labels: whether to give labels.
    """
    like = masks.pixel_features.new_empty(0, dtype=masks.dtype)
    resized = resizes(masks.size, [(output, output)], like)
    shape, dtype = (output, torch.int64) if labels else ((num_classes, *output), like.dtype)
    result = like.new_empty(shape, dtype=dtype)
    for start, stop in bands(output, num_classes + masks.number, like.device):
        first, last = resized.source_rows(start, stop)
        band = resized.band(scores(masks.rows(first, last)), first, start, stop)
        # Unlike argmax, max is vectorised over the last dimension on a CPU.
        result[..., start:stop, :] = band.max(dim=0).indices if labels else band
    return result
