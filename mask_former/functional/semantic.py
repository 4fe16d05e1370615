"""Semantic scores and labels from class and mask predictions (paper, section 3.4).

Semantic inference marginalises over all queries; general inference takes those alone that win in a
contest for the pixels. Mask logits come as a tensor or as
:class:`~mask_former.functional.lazy_masks.LazyMasks`; either way a result is formed a band of rows
at a time. Numbers are float32, or float64 if the input is. Nothing here keeps gradients, or reads
from the device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .banding import bands
from .competition import compete, find_candidates
from .lazy_masks import LazyMasks, as_lazy
from .resampling import Resize, Size


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
    masks = as_lazy(mask_logits).convolved()
    class_probs = class_logits.to(masks.dtype).softmax(dim=-1)[:, :-1]

    def write(start: int, stop: int, scores: Tensor) -> None:
        mask_probs = masks.rows(start, stop).sigmoid_()
        torch.mm(class_probs.T, mask_probs.flatten(1), out=scores.view(len(scores), -1))

    return _collect(write, class_probs.shape[1], masks, output, labels)


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
    num_classes = class_logits.shape[-1] - 1
    candidates = find_candidates(class_logits, mask_logits, object_mask_threshold)
    contest = compete(candidates, overlap_threshold)
    weights = (candidates.scores * contest.valid)[:, None, None]
    index = candidates.labels.clamp(max=num_classes - 1)[:, None, None]

    def write(start: int, stop: int, scores: Tensor) -> None:
        weighted = candidates.masks.rows(start, stop).sigmoid_().mul_(weights)
        scores.zero_().scatter_reduce_(0, index.expand_as(weighted), weighted, reduce="amax")

    return _collect(write, num_classes, candidates.masks, output, labels)


def _collect(
    write: Callable[[int, int, Tensor], None],
    num_classes: int,
    masks: LazyMasks,
    output: Size | None,
    labels: bool,
) -> Tensor:
    """Semantic scores [K, H, W] of all rows, or labels [H, W].

    write puts the scores of the rows (start, stop) of the masks into [K, stop - start, w].
    """
    output, like = output or masks.size, masks.pixel_embed

    def rows(start: int, stop: int) -> Tensor:
        scores = like.new_empty(num_classes, stop - start, masks.size[1], dtype=masks.dtype)
        write(start, stop, scores)
        return scores

    resize = Resize(masks.size, output, output)
    channels = max(num_classes, masks.number)
    shares = bands(output, channels, num_classes, like.device)
    if labels:
        result = like.new_empty(output, dtype=torch.int64)
        for start, stop in shares:
            # Unlike argmax, max is vectorised over the last dimension on a CPU.
            result[start:stop] = resize.rows(rows, start, stop).max(dim=0).indices
        return result
    result = like.new_empty(num_classes, *output, dtype=masks.dtype)
    for start, stop in shares:
        if output == masks.size:
            write(start, stop, result[:, start:stop])
        else:
            result[:, start:stop] = resize.rows(rows, start, stop)
    return result
