"""Label maps to the segments that MaskFormer learns: a class and a binary mask each.

Mask classification trains on a set of (class, mask) pairs (paper, section 3.2). A semantic label
map gives one mask for each class that is present, a panoptic id map one for each listed segment.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..structures import MaskTarget


def semantic_target(sem_seg: Tensor, ignore_label: int) -> MaskTarget:
    """One segment for each class of a semantic label map.

    Args:
        sem_seg: [H, W]; integer class ids, quickest as bytes.
        ignore_label: the id of pixels that belong to no class.

    Returns:
        Classes in ascending order, and their masks; N = 0 if every pixel is ignored.
    """
    if sem_seg.dtype == torch.uint8:  # counting takes a tenth of the time of sorting
        present = torch.bincount(sem_seg.flatten()).nonzero()[:, 0]
    else:
        present = torch.unique(sem_seg)
    labels = present[present != ignore_label]
    return MaskTarget(labels.long(), _where(sem_seg, labels))


def panoptic_target(numbers: Tensor, labels: Tensor) -> MaskTarget:
    """One segment for each of N classes; one that a crop removed keeps an empty mask.

    Args:
        numbers: [H, W], integer; a pixel of segment i has i + 1. Others, as 0, are in no mask.
        labels: [N]; the classes of the segments, 0..K-1.
    """
    return MaskTarget(labels.long(), _where(numbers, torch.arange(1, len(labels) + 1)))


def _where(layer: Tensor, values: Tensor) -> Tensor:
    """[N, H, W]; bool. NumPy compares bytes in a fifth of the time that PyTorch takes."""
    return torch.from_numpy(values.to(layer.dtype).numpy()[:, None, None] == layer.numpy())


def instance_target(masks: Tensor, labels: Tensor) -> MaskTarget:
    """One segment for each instance that has a pixel; a crop may have removed others.

    Args:
        masks: [N, H, W], bool; they may overlap.
        labels: [N]; the classes, 0..K-1.
    """
    seen = masks.flatten(1).any(1)
    return MaskTarget(labels.long()[seen], masks[seen])


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks at another resolution, by PyTorch's nearest neighbour: pixel ``floor(i * scale)``.

    Args:
        masks: [N, H, W]; bool or floating point.
        size: (h, w).

    Returns:
        [N, h, w]; the dtype of ``masks``.
    """
    # Masks go along the batch axis, the only one that interpolate allows to be empty, and as bytes
    # because it knows no bool.
    values = masks.byte() if masks.dtype == torch.bool else masks
    return F.interpolate(values[:, None], size, mode="nearest")[:, 0].to(masks.dtype)


def pad_target(target: MaskTarget, size: tuple[int, int]) -> MaskTarget:
    """A target at the padded size of its batch; the padding, bottom and right, is in no mask.

    Args:
        target: masks [N, h, w]; where it tells the valid pixels, the padding is none.
        size: (H, W), at least (h, w).

    Raises:
        ValueError: if the masks are larger than ``size``, or of another size than the map of valid
            pixels.
    """
    (height, width), (h, w) = size, target.masks.shape[-2:]
    if h > height or w > width:
        raise ValueError(f"cannot pad masks of {h}x{w} pixels to {height}x{width}: they are larger")
    padding = (0, width - w, 0, height - h)
    target = target._replace(masks=F.pad(target.masks, padding))
    if target.valid is None:
        return target
    if target.valid.shape != (h, w):
        raise ValueError(
            f"the map of valid pixels is {list(target.valid.shape)}, but the masks are {h}x{w}"
        )
    return target._replace(valid=F.pad(target.valid, padding))
