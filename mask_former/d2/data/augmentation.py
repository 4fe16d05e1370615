"""The image and the labels of one sample, changed alike: augmented, then padded."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import NamedTuple

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from PIL import Image
from torch.nn import functional as F

from .reading import id_to_rgb, rgb_to_id

Augmentations = Sequence[T.Augmentation | T.Transform]
Size = tuple[int, int]  # height and width
Nearest = Callable[[Size, Size], tuple[np.ndarray, np.ndarray]]


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, but for the sides of very narrow images, which it rounds to no pixel."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The size is drawn, and a side has a pixel at least."""
        return _with_pixels(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """Detectron2's, with the same exception."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The factor is drawn, and a side has a pixel at least."""
        return _with_pixels(super().get_transform(image))


def _with_pixels(step: T.Transform) -> T.Transform:
    if isinstance(step, T.ResizeTransform):
        step.new_h, step.new_w = max(1, step.new_h), max(1, step.new_w)
    return step


class ColorJitter(ColorAugSSDTransform):
    """PointRend's, with the same result: bytes are scaled by a table of all 256 that there are."""

    def convert(self, img: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
        """``img * alpha + beta``, cut to bytes."""
        table = super().convert(np.arange(256, dtype=np.uint8), alpha, beta)
        return cv2.LUT(np.ascontiguousarray(img), table)


_COLORS_ONLY = (T.NoOpTransform, T.BlendTransform, ColorAugSSDTransform, ColorJitter)


class Picture(NamedTuple):
    """An image and its labels; a kind of labels that the sample lacks is None."""

    image: np.ndarray
    """[H, W, 3] as read, [3, H, W] once augmented; uint8."""
    sem_seg: np.ndarray | None = None
    """[H, W]; integer class ids."""
    segments: np.ndarray | None = None
    """[H, W]; integer numbers of segments from 1 on, 0 where there is none."""
    masks: np.ndarray | None = None
    """[N, H, W]; uint8, 0 or 1; they may overlap."""
    ignored: np.ndarray | None = None
    """[H, W]; uint8, 1 where no mask tells what the pixel is."""


def augment(picture: Picture, augmentations: Augmentations) -> Picture:
    """Draws one transform and applies it to the image and its labels alike."""
    labels = picture.sem_seg
    drawn = T.AugInput(picture.image)
    if labels is not None and _look_at_labels(augmentations):
        drawn.sem_seg = labels.astype(np.float64)
    transforms = T.AugmentationList(augmentations)(drawn)
    if labels is not None and drawn.sem_seg is not None:
        labels = drawn.sem_seg.astype(labels.dtype)
    elif labels is not None:
        labels = _move(labels, transforms, _nearest_of_floats)
    others = [
        None if layer is None else _move(layer, transforms, _nearest_of_bytes)
        for layer in picture[2:]
    ]
    return Picture(drawn.image.transpose(2, 0, 1), labels, *others)


def needs_sem_seg(augmentations: Augmentations) -> bool:
    """Whether a crop looks at the label map: below an area of 1 it limits the largest class."""
    crops = [a for a in augmentations if isinstance(a, T.RandomCrop_CategoryAreaConstraint)]
    return any(crop.single_category_max_area < 1.0 for crop in crops)


def _look_at_labels(augmentations: Augmentations) -> bool:
    """Whether the draw may depend on the label map; an augmentation of others may look, too."""
    blind = (T.RandomCrop_CategoryAreaConstraint, T.Transform)
    others = [a for a in augmentations if not isinstance(a, blind)]
    asked = [signature(a.get_transform).parameters for a in others]
    return needs_sem_seg(augmentations) or any(
        {"sem_seg", "args"} & names.keys() for names in asked
    )


def _move(layer: np.ndarray, transforms: T.TransformList, nearest: Nearest) -> np.ndarray:
    """One kind of labels [..., H, W], transformed.

    Resizing, cropping and flipping move rows and columns, each for themselves. So it is their
    indices that are moved, and each pixel of the result is picked once.
    """
    rows, columns = (np.arange(side) for side in layer.shape[-2:])
    for step in transforms.transforms:
        if type(step) is T.ResizeTransform:
            old, new = (step.h, step.w), (step.new_h, step.new_w)
            rows, columns = (
                each[i] for each, i in zip((rows, columns), nearest(old, new), strict=True)
            )
        elif type(step) is T.CropTransform:
            rows = rows[step.y0 : step.y0 + step.h]
            columns = columns[step.x0 : step.x0 + step.w]
        elif type(step) is T.HFlipTransform:
            columns = columns[::-1]
        elif type(step) is T.VFlipTransform:
            rows = rows[::-1]
        elif type(step) not in _COLORS_ONLY:
            return _move_plainly(layer, transforms, nearest)
    return layer.take(rows, -2).take(columns, -1)


def _move_plainly(layer: np.ndarray, transforms: T.TransformList, nearest: Nearest) -> np.ndarray:
    """Any transform, by its own code, which resizes floats by PyTorch and bytes by Pillow."""
    if nearest is _nearest_of_floats:
        return transforms.apply_segmentation(layer.astype(np.float64)).astype(layer.dtype)
    maps = [*layer.reshape(-1, *layer.shape[-2:]), np.zeros(layer.shape[-2:], layer.dtype)]
    moved = [rgb_to_id(transforms.apply_segmentation(id_to_rgb(each))) for each in maps]
    *front, _, _ = layer.shape
    return np.stack(moved)[:-1].reshape(*front, *moved[-1].shape).astype(layer.dtype)


def _nearest_of_floats(old: Size, new: Size) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of PyTorch's nearest neighbour, as published for class ids.

    Where index times scale is a whole number, PyTorch rounds by another rule in small outputs, of
    height plus width up to 128: the strips that are resized here count as the whole would.
    """
    strips = [torch.arange(side, dtype=torch.float64)[None, None, :, None] for side in old]
    shapes = (new[0], min(new[1], 128)), (new[1], min(new[0], 128))
    rows, columns = map(F.interpolate, strips, shapes)
    return rows[0, 0, :, 0].long().numpy(), columns[0, 0, :, 0].long().numpy()


def _nearest_of_bytes(old: Size, new: Size) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of Pillow's nearest neighbour, as published for panoptic colours."""
    strips = [Image.fromarray(np.arange(side, dtype=np.int32)[None]) for side in old]
    rows, columns = (
        np.asarray(strip.resize((side, 1), Image.Resampling.NEAREST))[0]
        for strip, side in zip(strips, new, strict=True)
    )
    return rows, columns


def pad_to(picture: Picture, side: int, ignore_label: int = 0) -> Picture:
    """Pads right and bottom to ``side`` pixels, or cuts what is larger, as the original does.

    The image's padding is grey, before the mean is subtracted; it has no segment and is in no mask.
    """
    padded = dict(zip(Picture._fields, (128, ignore_label, 0, 0, 1), strict=True))
    layers = {name: layer for name, layer in picture._asdict().items() if layer is not None}
    for name, layer in layers.items():
        full = np.full((*layer.shape[:-2], side, side), padded[name], layer.dtype)
        kept = layer[..., :side, :side]
        full[..., : kept.shape[-2], : kept.shape[-1]] = kept
        layers[name] = full
    return Picture(**layers)
