"""From a model's predictions to regions with names and colours that are the same each time."""

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from torch import Tensor

from ..data.datasets import register_descriptions
from ..errors import InputError
from .tracker import Tracker

Predictions = dict[str, Any]
Color = tuple[float, float, float]
"""Red, green and blue in 0..1."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels; the last column is x1 - 1."""

# Changes of hue, in turns, such that neighbours in the list can be told apart.
_HUES = (0.0, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 0.5)


class Region(NamedTuple):
    """Something found in a picture: a class, a panoptic segment or an instance."""

    id: int
    category_id: int
    category: str
    is_thing: bool
    color: Color
    mask: np.ndarray
    """[H, W]; uint8, 0 or 1."""
    score: float | None = None
    box: Box | None = None

    @property
    def label(self) -> str:
        """The name and, of a thing, the score."""
        if not self.is_thing or self.score is None:
            return self.category
        return f"{self.category} {100 * self.score:.0f}%"


Found = dict[str, list[Region]]
"""The regions of one picture by their kind: segments_info, classes or instances."""


def class_metadata(cfg: CfgNode) -> Metadata:
    """Class names and colours of ``DATASETS.TEST[0]``, with numbers for those it lacks.

    Raises:
        InputError: the data set has other classes than the model.
    """
    register_descriptions(cfg)
    name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "__unused"
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    known = vars(MetadataCatalog.get(name))
    stuff = known.get("stuff_classes", [f"class {i}" for i in range(num_classes)])
    if len(stuff) != num_classes:
        raise InputError(
            f"data set {name} has {len(stuff)} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
            f"{num_classes}; name a data set of the model's classes in DATASETS.TEST"
        )
    return with_colors({"stuff_classes": stuff, **known})


def with_colors(known: dict[str, Any]) -> Metadata:
    """The metadata of a data set with colours, and with both kinds of classes.

    Args:
        known: has the names of one kind at least; what it lacks of the other is the same.
    """
    stuff = known.get("stuff_classes") or known["thing_classes"]
    things = known.get("thing_classes", stuff)
    names = {"stuff_classes": stuff, "thing_classes": things}
    colors = {"stuff_colors": _palette(len(stuff)), "thing_colors": _palette(len(things))}
    return Metadata(**{**names, **colors, **known})


def _palette(size: int) -> list[np.ndarray]:
    colors = colormap(rgb=True)
    return [colors[i % len(colors)] for i in range(size)]


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
        tracker: the tracker of the frames before; none for a single picture.
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
        if box is None:
            x, y, width, height = cv2.boundingRect(mask)
            box = float(x), float(y), float(x + width), float(y + height)
        regions.append(Region(i, category, name, True, color, mask, score, tuple(box)))
    return regions


def _appearance(metadata: Metadata, kind: str, category: int, number: int) -> tuple[str, Color]:
    """The name of a class of "thing" or "stuff", and the colour of one of its regions."""
    color = _fractions(metadata.get(f"{kind}_colors")[category])
    return metadata.get(f"{kind}_classes")[category], variant(color, number)


def _fractions(color: Sequence[float]) -> Color:
    red, green, blue = (float(value) / 255 for value in color)
    return red, green, blue


def _pixels(mask: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask, dtype=bool).view(np.uint8)


def variant(color: Color, number: int) -> Color:
    """The colour of a class for the thing of this number: the first has it, others other hues."""
    cycle, place = divmod(number, len(_HUES))
    turn = _HUES[place] + 0.05 * cycle
    if not turn:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*color)
    # Without some saturation, and in black and white, there are no hues.
    lightness, saturation = min(max(lightness, 0.35), 0.65), max(saturation, 0.5)
    return colorsys.hls_to_rgb((hue + turn) % 1, lightness, saturation)


def to_bytes(color: Color) -> tuple[int, ...]:
    """The colour in 0..255."""
    return tuple(round(255 * value) for value in color)
