"""Plain results of one picture in files: pictures of colours and of labels, tables and masks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..data.reading import id_to_rgb
from .regions import Found, Region, to_bytes
from .tracker import encode

Size = tuple[int, int]
"""Height and width."""


def save_color(path: Path, found: Found, size: Size, num_classes: int) -> None:
    """The file of :func:`color_picture`."""
    color_picture(found, size, num_classes).save(path)


def save_label(path: Path, found: Found, size: Size, num_classes: int) -> None:
    """Class ids in a grey PNG, or ids of segments or instances in an RGB PNG as COCO's."""
    kind, _ = shown(found)
    picture = class_picture if kind == "classes" else id_picture
    picture(found, size, num_classes).save(path)


def save_json(path: Path, found: Found, size: Size, num_classes: int) -> None:
    """What is known of each region but its pixels."""
    path.write_text(json.dumps(table(found, size)), encoding="utf-8")


def save_rle(path: Path, found: Found, size: Size, num_classes: int) -> None:
    """The same with the masks as COCO's run lengths."""
    path.write_text(json.dumps(table(found, size, with_masks=True)), encoding="utf-8")


SAVERS: dict[str, Callable[[Path, Found, Size, int], None]] = {
    "color": save_color,
    "label": save_label,
    "json": save_json,
    "rle": save_rle,
}
SUFFIXES = {"color": ".color.png", "label": ".label.png", "json": ".json", "rle": ".rle.json"}


def color_picture(found: Found, size: Size, num_classes: int) -> Image.Image:
    """A palette picture of the label ids; RGB if there are more than a palette holds.

    Void is black.
    """
    kind, regions = shown(found)
    ids = label_ids(kind, regions, size, num_classes)
    colors = np.zeros((max(int(ids.max()), 255) + 1, 3), np.uint8)
    for region in regions:
        colors[region.id] = to_bytes(region.color)
    if len(colors) > 256:
        return Image.fromarray(colors[ids])
    picture = Image.fromarray(ids.astype(np.uint8))
    picture.putpalette(colors.tobytes())
    return picture


def class_picture(found: Found, size: Size, num_classes: int) -> Image.Image:
    """A grey picture of class ids, also of segments and instances; see :func:`label_ids`."""
    regions = [region._replace(id=region.category_id) for region in shown(found)[1]]
    return Image.fromarray(label_ids("classes", regions, size, num_classes))


def id_picture(found: Found, size: Size, num_classes: int) -> Image.Image:
    """The ids of segments or instances in RGB, as COCO's panoptic files have them."""
    return Image.fromarray(id_to_rgb(label_ids(*shown(found), size, num_classes)))


def label_ids(kind: str, regions: list[Region], size: Size, num_classes: int) -> np.ndarray:
    """The id of the region that each pixel belongs to; of several, the first.

    Returns:
        [H, W]; of classes uint8 with void 255, or uint16 with void 65535 if there are more than
        255 classes; else int32 with void 0.
    """
    void: int = 0
    dtype: type[np.integer] = np.int32
    if kind == "classes":
        void, dtype = (255, np.uint8) if num_classes <= 255 else (65535, np.uint16)
    ids = np.full(size, void, dtype)
    for region in reversed(regions):  # instances come best first
        ids[region.mask.view(bool)] = region.id
    return ids


def describe(kind: str, region: Region) -> dict[str, Any]:
    """A region's entry in a table; its box is COCO's [x, y, width, height]."""
    bbox: list[float] = list(cv2.boundingRect(region.mask))
    if region.box is not None:
        x0, y0, x1, y1 = region.box
        bbox = [x0, y0, x1 - x0, y1 - y0]
    entry: dict[str, Any] = {"id": region.id, "category_id": region.category_id}
    entry["category"] = region.category
    if kind == "segments_info":
        entry["isthing"] = region.is_thing
    if region.score is not None:
        entry["score"] = region.score
    return {**entry, "area": cv2.countNonZero(region.mask), "bbox": bbox}


def shown(found: Found) -> tuple[str, list[Region]]:
    """Segments, else classes, else instances: those that come first."""
    return next(iter(found.items()))


def table(found: Found, size: Size, with_masks: bool = False) -> dict[str, Any]:
    """What is known of each region, by kind, and the height and width of the picture.

    Args:
        found: the regions.
        size: of the picture.
        with_masks: add the masks, as COCO's run lengths.
    """
    tables: dict[str, Any] = {"height": size[0], "width": size[1]}
    for kind, regions in found.items():
        tables[kind] = entries = [describe(kind, region) for region in regions]
        for entry, region in zip(entries, regions if with_masks else [], strict=with_masks):
            mask = encode(region.mask)
            counts = mask["counts"].decode("ascii")
            entry["segmentation"] = {"size": mask["size"], "counts": counts}
    return tables
