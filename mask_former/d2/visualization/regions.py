"""From a model's predictions to regions with names and colours that are the same each time."""

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from pycocotools import mask as rle_tools
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .drawing import Box, Color, Found, Region, shade

Predictions = dict[str, Any]
RunLengths = dict[str, Any]
"""A mask in COCO's compressed form."""

# Changes of lightness, such that neighbours in the list can be told apart.
_SHADES = (0.0, -0.4, 0.3, -0.2, 0.15, -0.55)


class _Track(NamedTuple):
    """A thing that was seen in a frame."""

    category_id: int
    run_lengths: RunLengths
    number: int
    """Among the things of its class; it decides on the shade."""
    frame: int


class Tracker:
    """Numbers the things of each class, and knows them again in the next frames by their masks.

    Two things are the same if they are of one class and their masks overlap enough; among several
    the pairs with the largest sum of overlaps are taken.

    Args:
        overlap: intersection over union from which two masks may be the same thing; less than
            Detectron2's 0.5, since pairs are chosen together.
        patience: frames in which a thing may be missing; 8, as in Detectron2.
    """

    def __init__(self, overlap: float = 0.3, patience: int = 8) -> None:
        self.overlap = overlap
        self.patience = patience
        self._tracks: list[_Track] = []
        self._frame = 0

    def number(self, category_ids: Sequence[int], masks: Sequence[np.ndarray]) -> list[int]:
        """A number for each thing of the next frame: that of the same thing before, or a free one.

        Args:
            category_ids: n of them.
            masks: n times [H, W]; uint8.
        """
        self._frame += 1
        run_lengths = [encode(mask) for mask in masks]
        before = self._match(category_ids, run_lengths)
        missing = [t for i, t in enumerate(self._tracks) if i not in before.values()]
        missing = [t for t in missing if self._frame - t.frame <= self.patience]
        known = [*missing, *(self._tracks[i] for i in before.values())]
        taken = {(track.category_id, track.number) for track in known}
        seen = []
        for i, (category, mask) in enumerate(zip(category_ids, run_lengths, strict=True)):
            if i in before:
                number = self._tracks[before[i]].number
            else:
                number = next(n for n in count() if (category, n) not in taken)
            taken.add((category, number))
            seen.append(_Track(category, mask, number, self._frame))
        self._tracks = [*seen, *missing]
        return [track.number for track in seen]

    def _match(self, categories: Sequence[int], masks: Sequence[RunLengths]) -> dict[int, int]:
        """The index of the track of each new thing that has one."""
        if not self._tracks or not masks:
            return {}
        old = [track.run_lengths for track in self._tracks]
        overlaps = rle_tools.iou(list(masks), old, [0] * len(old))  # [new, old]
        same = np.equal.outer(categories, [track.category_id for track in self._tracks])
        overlaps = np.where(same & (overlaps >= self.overlap), overlaps, 0.0)
        pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
        return {int(new): int(old) for new, old in pairs if overlaps[new, old] > 0}


def find_regions(
    predictions: Predictions,
    metadata: Metadata,
    semantic_threshold: float = 0.0,
    tracker: Tracker | None = None,
) -> Found:
    """Panoptic segments if there are any, else classes and instances.

    Args:
        predictions: what a model gives for one picture.
        metadata: names and colours, see ``class_metadata``.
        semantic_threshold: pixels whose best semantic score is lower belong to no class; a model
            that gives labels has no scores to compare.
        tracker: of the frames before; none for a single picture.
    """
    tracker = tracker or Tracker()
    if "panoptic_seg" in predictions:
        ids, segments = predictions["panoptic_seg"]
        return {"segments_info": _segments(ids.cpu().numpy(), segments, metadata, tracker)}
    found: Found = {}
    if "sem_seg" in predictions:
        scores = predictions["sem_seg"]
        labels = scores if scores.dim() == 2 else label_map(scores, semantic_threshold)
        found["classes"] = _classes(labels.cpu().numpy(), metadata)
    if "instances" in predictions:
        found["instances"] = _instances(predictions["instances"].to("cpu"), metadata, tracker)
    return found


def label_map(scores: Tensor, threshold: float) -> Tensor:
    """The class of the highest score; K where that is too low.

    Args:
        scores: [K, H, W]; semantic scores.
        threshold: the lowest score of a pixel that has a class.

    Returns:
        [H, W]; int64, 0..K.
    """
    best, labels = scores.max(dim=0)
    return labels.masked_fill(best < threshold, len(scores))


def _classes(labels: np.ndarray, metadata: Metadata) -> list[Region]:
    """A region for each class in the label map [H, W]."""
    names, colors = metadata.stuff_classes, metadata.stuff_colors
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(names))[: len(names)])
    return [
        Region(k, k, names[k], False, _fractions(colors[k]), _pixels(labels == k))
        for k in present.tolist()
    ]


def _segments(
    ids: np.ndarray, segments: list[dict[str, Any]], metadata: Metadata, tracker: Tracker
) -> list[Region]:
    """A region for each panoptic segment; ids: [H, W]."""
    masks = [_pixels(ids == segment["id"]) for segment in segments]
    things = [i for i, segment in enumerate(segments) if segment["isthing"]]
    categories = [segments[i]["category_id"] for i in things]
    numbers = tracker.number(categories, [masks[i] for i in things])
    number_of = dict(zip(things, numbers, strict=True))
    regions = []
    for i, (segment, mask) in enumerate(zip(segments, masks, strict=True)):
        kind = "thing" if i in number_of else "stuff"
        name, color = _appearance(metadata, kind, segment["category_id"], number_of.get(i, 0))
        score = segment.get("score")
        fields = (segment["id"], segment["category_id"], name, i in number_of, color, mask, score)
        regions.append(Region(*fields))
    return regions


def _instances(instances: Instances, metadata: Metadata, tracker: Tracker) -> list[Region]:
    """A region for each instance, in their order, with ids from 1."""
    fields = instances.get_fields()
    categories = instances.pred_classes.tolist()
    masks = [_pixels(mask) for mask in instances.pred_masks.numpy()]
    none = [None] * len(masks)
    scores = fields["scores"].tolist() if "scores" in fields else none
    boxes = fields["pred_boxes"].tensor.tolist() if "pred_boxes" in fields else none
    numbers = tracker.number(categories, masks)
    rows = zip(categories, masks, scores, boxes, numbers, strict=True)
    regions = []
    for i, (category, mask, score, box, number) in enumerate(rows, start=1):
        name, color = _appearance(metadata, "thing", category, number)
        box = _tight_box(mask) if box is None else tuple(box)
        regions.append(Region(i, category, name, True, color, mask, score, box))
    return regions


def _appearance(metadata: Metadata, kind: str, category: int, number: int) -> tuple[str, Color]:
    """The name of a class of "thing" or "stuff", and the shade of one of its regions."""
    color = _fractions(metadata.get(f"{kind}_colors")[category])
    change = _SHADES[number % len(_SHADES)]
    return metadata.get(f"{kind}_classes")[category], shade(color, change)


def _fractions(color: Sequence[float]) -> Color:
    red, green, blue = (float(value) / 255 for value in color)
    return red, green, blue


def _pixels(mask: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask, dtype=bool).view(np.uint8)


def _tight_box(mask: np.ndarray) -> Box:
    x, y, width, height = cv2.boundingRect(mask)
    return float(x), float(y), float(x + width), float(y + height)


def encode(mask: np.ndarray) -> RunLengths:
    """COCO's run lengths of a mask [H, W] (uint8); their counts are bytes."""
    return rle_tools.encode(np.asfortranarray(mask))
