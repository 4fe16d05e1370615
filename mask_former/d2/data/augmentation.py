"""The image and the labels of one sample on their way from files to the model.

One core for all label kinds: augment image and labels alike, pad, turn labels into segments.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from ...functional.targets import panoptic_target
from ...structures import MaskTarget
from .reading import rgb_to_id

Augmentations = Sequence[T.Augmentation | T.Transform]

_IMAGE_PADDING = 128  # grey, before the mean is subtracted
_VOID = 0


class Arrays(NamedTuple):
    """What the files of one sample hold."""

    image: np.ndarray
    """[H, W, 3]; uint8."""
    sem_seg: np.ndarray | None = None
    """[H, W]; float64 class ids."""
    panoptic: np.ndarray | None = None
    """[H, W, 3]; uint8 colours."""
    masks: np.ndarray | None = None
    """[N, H, W]; uint8, 0 or 1; they may overlap."""
    ignored: np.ndarray | None = None
    """[H, W]; uint8, 1 where no mask tells what the pixel is."""


class Tensors(NamedTuple):
    """The same as tensors, augmented."""

    image: Tensor
    """[3, H, W]; uint8."""
    sem_seg: Tensor | None = None
    """[H, W]; int64 class ids."""
    panoptic: Tensor | None = None
    """[H, W]; int64 segment ids."""
    masks: Tensor | None = None
    """[N, H, W]; bool."""
    ignored: Tensor | None = None
    """[H, W]; bool."""


def augment(arrays: Arrays, augmentations: Augmentations) -> Tensors:
    """Draws one transform and applies it to the image and its labels alike."""
    aug_input = T.AugInput(arrays.image, sem_seg=arrays.sem_seg)
    transforms = T.AugmentationList(augmentations)(aug_input)
    panoptic = arrays.panoptic
    if panoptic is not None:
        panoptic = rgb_to_id(transforms.apply_segmentation(panoptic))
    image = _image_tensor(aug_input.image)
    masks = None
    if arrays.masks is not None:
        # Bytes, which Pillow resizes, one by one: together they would be channels.
        changed = [transforms.apply_segmentation(mask) for mask in arrays.masks]
        masks = _masks_tensor(changed, image.shape[-2:])
    ignored = arrays.ignored
    if ignored is not None:
        ignored = transforms.apply_segmentation(ignored)
    return Tensors(image, _ids(aug_input.sem_seg), _ids(panoptic), masks, _mask(ignored))


def _masks_tensor(masks: Sequence[np.ndarray], size: Sequence[int]) -> Tensor:
    if not masks:
        return torch.zeros((0, *size), dtype=torch.bool)
    return torch.as_tensor(np.stack(masks)).bool()


def _mask(mask: np.ndarray | None) -> Tensor | None:
    return None if mask is None else torch.as_tensor(np.ascontiguousarray(mask)).bool()


def _image_tensor(image: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _ids(labels: np.ndarray | None) -> Tensor | None:
    return None if labels is None else torch.as_tensor(np.ascontiguousarray(labels)).long()


def pad_to(tensors: Tensors, side: int, ignore_label: int) -> Tensors:
    """Pads right and bottom to ``side`` pixels, or cuts what is larger, as the original does."""
    height, width = tensors.image.shape[-2:]
    padding = (0, side - width, 0, side - height)

    def padded(ids: Tensor | None, value: int) -> Tensor | None:
        return None if ids is None else F.pad(ids, padding, value=value)

    image = F.pad(tensors.image, padding, value=_IMAGE_PADDING)
    return Tensors(
        image,
        padded(tensors.sem_seg, ignore_label),
        padded(tensors.panoptic, _VOID),
        padded(tensors.masks, False),
        padded(tensors.ignored, True),
    )


def segments_target(ids: Tensor, segments: Sequence[dict[str, Any]]) -> MaskTarget:
    """The target of a panoptic id map [H, W]: all segments that are no crowd.

    Pixels of none of them, void and crowds, are not valid.
    """
    kept = [segment for segment in segments if not segment["iscrowd"]]
    segment_ids = torch.tensor([segment["id"] for segment in kept], dtype=torch.int64)
    labels = torch.tensor([segment["category_id"] for segment in kept], dtype=torch.int64)
    target = panoptic_target(ids, segment_ids, labels)
    return target._replace(valid=torch.isin(ids, segment_ids))


def to_instances(target: MaskTarget) -> Instances:
    """A target in the form in which Detectron2's models take it.

    Returns:
        ``gt_classes`` [N], int64, and ``gt_masks`` [N, H, W], a bare tensor: bool, or float32 if
        N = 0.
    """
    height, width = target.masks.shape[-2:]
    instances = Instances((height, width))
    instances.gt_classes = target.labels
    instances.gt_masks = target.masks if len(target.labels) else target.masks.float()
    return instances
