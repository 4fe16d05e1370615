#!/usr/bin/env python
"""Prepares the panoptic annotations of ADE20K (SceneParse150) in COCO's format.

Reads    $DETECTRON2_DATASETS/ADEChallengeData2016/annotations/{training,validation}/*.png
         and annotations_instance/{training,validation}/*.png, the same names
Writes   ade20k_panoptic_{train,val}/*.png and ade20k_panoptic_{train,val}.json beside them

Run it again after an interruption: pictures that are finished and right are kept. The semantic
label maps are another script's (prepare_ade20k_sem_seg.py); the data sets need both.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from panopticapi.utils import id2rgb, rgb2id

from mask_former.d2.data import preparing
from mask_former.d2.data.datasets import read_categories
from mask_former.d2.errors import InputError

RELEASED = {"training": 20210, "validation": 2000}
OUTPUTS = {"training": "ade20k_panoptic_train", "validation": "ade20k_panoptic_val"}
VOID_CLASS = 255
# The registered table gives classes 6 and 48 the same colour; a colour is a segment's id here.
OWN_COLORS = {48: [140, 140, 200]}
MAX_COLOR_DISTANCE = 30

Color = tuple[int, int, int]


class Picture(NamedTuple):
    """A picture to make."""

    semantic: Path
    instance: Path
    image: Path
    target: Path
    original: bool
    """Whether stuff keeps the area and the box that it had before things were painted over it."""


class Segment(NamedTuple):
    """A segment as it was painted."""

    id: int
    category_id: int
    mask: np.ndarray
    """[H, W] bool; before later segments covered some of it."""


@cache
def categories() -> list[dict[str, Any]]:
    """The classes with a colour each, as the JSON lists them."""
    table = read_categories("ade20k_150")
    return [
        {
            "name": entry["name"],
            "id": entry["id"],
            "isthing": entry["isthing"],
            "color": OWN_COLORS.get(entry["id"], entry["color"]),
        }
        for entry in table
    ]


@cache
def thing_ids() -> list[int]:
    """Contiguous ids of the things; instance class i (from 1) is the i-th of them."""
    return [entry["id"] for entry in categories() if entry["isthing"]]


class ThingColors:
    """Colours for the things of one picture: the class's own, then unused ones near to it.

    They are drawn from a stream that starts anew in every picture and that NumPy keeps for ever, so
    that ids depend on the picture alone.
    """

    def __init__(self) -> None:
        stuff = [tuple(entry["color"]) for entry in categories() if not entry["isthing"]]
        self._taken: set[Color] = {(0, 0, 0), *stuff}
        self._random = np.random.RandomState(0)

    def draw(self, category_id: int) -> Color:
        """A colour [R, G, B] that nothing in the picture has."""
        base = np.array(categories()[category_id]["color"])
        color = tuple(base.tolist())
        while color in self._taken:
            steps = self._random.randint(-MAX_COLOR_DISTANCE, MAX_COLOR_DISTANCE + 1, size=3)
            color = tuple(np.clip(base + steps, 0, 255).tolist())
        self._taken.add(color)
        return color


def stuff_segments(classes: np.ndarray) -> list[Segment]:
    """One segment for each stuff class of a semantic map [H, W]."""
    present = set(np.unique(classes).tolist()) - {VOID_CLASS, *thing_ids()}
    return [
        Segment(rgb2id(categories()[class_id]["color"]), class_id, classes == class_id)
        for class_id in sorted(present)
    ]


def thing_segments(instances: np.ndarray, path: Path) -> list[Segment]:
    """One segment for each instance.

    Args:
        instances: [H, W, 3]; instance class from 1 and number from 1, 0 where there is none.
        path: of the file, for errors.
    """
    colors, segments = ThingColors(), []
    for number in np.unique(instances[..., 1]).tolist():
        if number > 0:
            mask = instances[..., 1] == number
            class_id = _thing_of(np.unique(instances[mask][:, 0]).tolist(), number, path)
            segments.append(Segment(rgb2id(colors.draw(class_id)), class_id, mask))
    return segments


def _thing_of(instance_classes: list[int], number: int, path: Path) -> int:
    things = thing_ids()
    if len(instance_classes) != 1 or not 1 <= instance_classes[0] <= len(things):
        raise InputError(
            f"instance map {path}: instance {number} has the classes {instance_classes}, but one "
            f"of 1 to {len(things)} is expected; unpack annotations_instance again"
        )
    return things[instance_classes[0] - 1]


def paint(segments: Sequence[Segment], shape: tuple[int, ...]) -> np.ndarray:
    """Segment ids [H, W]; later segments cover earlier ones, 0 is void."""
    ids = np.zeros(shape, np.int64)
    for segment in segments:
        ids[segment.mask] = segment.id
    return ids


def segments_info(
    segments: Sequence[Segment], ids: np.ndarray, original: bool
) -> list[dict[str, Any]]:
    """COCO's records of the segments, those that are covered altogether left out.

    Args:
        segments: as painted.
        ids: segment ids [H, W].
        original: describe the segments as they were before others covered them, and keep all.
    """
    masks = [segment.mask if original else ids == segment.id for segment in segments]
    return [
        {
            "id": segment.id,
            "category_id": segment.category_id,
            "area": int(mask.sum()),
            "bbox": list(cv2.boundingRect(mask.astype(np.uint8))),
            "iscrowd": 0,
        }
        for segment, mask in zip(segments, masks, strict=True)
        if mask.any()
    ]


def read_sources(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Semantic classes [H, W], from 0, 255 is void; and instances [H, W, 3].

    Raises:
        InputError: a file is missing, broken, of another size or has other values.
    """
    classes = preparing.read_indices(picture.semantic) - np.uint8(1)
    if wrong := set(np.unique(classes).tolist()) - {*range(len(categories())), VOID_CLASS}:
        raise InputError(
            f"label map {picture.semantic} has ids {sorted(value + 1 for value in wrong)}, but 0 "
            f"to {len(categories())} are expected; unpack annotations again"
        )
    instances = preparing.read(picture.instance, "instance map")
    if instances.dtype != np.uint8 or instances.shape != (*classes.shape, 3):
        raise InputError(
            f"instance map {picture.instance} has the shape {instances.shape} and type "
            f"{instances.dtype}, but colours of bytes in the size of {picture.semantic}, "
            f"{classes.shape}, are expected; unpack annotations_instance again"
        )
    return classes, instances


def prepare_one(picture: Picture) -> tuple[dict[str, Any], dict[str, Any]]:
    """Makes one picture, unless it is there and right.

    Returns:
        The JSON's entries for the image and for its segments.
    """
    classes, instances = read_sources(picture)
    segments = stuff_segments(classes) + thing_segments(instances, picture.instance)
    ids = paint(segments, classes.shape)
    colors = id2rgb(ids)
    preparing.write_unless_good(
        lambda: preparing.save(colors, picture.target, "PNG"), lambda: _check(picture, colors)
    )
    height, width = ids.shape
    stem = picture.target.stem
    image = {"id": stem, "file_name": f"{stem}.jpg", "width": width, "height": height}
    return image, {
        "image_id": stem,
        "file_name": picture.target.name,
        "segments_info": segments_info(segments, ids, picture.original),
    }


def _check(picture: Picture, colors: np.ndarray) -> None:
    if picture.image.exists():
        height, width = colors.shape[:2]
        preparing.check_size(picture.semantic, (width, height), preparing.image_size(picture.image))
    if not np.array_equal(preparing.read(picture.target, "panoptic map"), colors):
        raise InputError(f"panoptic map {picture.target} is not as written; run this again")


def prepare_split(root: Path, split: str, workers: int, original: bool) -> None:
    """Makes and verifies the pictures of a split, then its JSON."""
    target = root / OUTPUTS[split]
    target.mkdir(exist_ok=True)
    pictures = [
        Picture(
            path,
            root / "annotations_instance" / split / path.name,
            root / "images" / split / f"{path.stem}.jpg",
            target / path.name,
            original,
        )
        for path in preparing.files_of(root / "annotations" / split, "*.png")
    ]
    entries = preparing.in_parallel(prepare_one, pictures, workers, split)
    preparing.check_folder(target, {picture.target.name for picture in pictures})
    images, annotations = map(list, zip(*entries, strict=True))
    content = {"images": images, "annotations": annotations, "categories": categories()}
    with preparing.replacing(root / f"{OUTPUTS[split]}.json") as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    preparing.report(target, len(pictures), RELEASED[split])


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, prepares, and says what was written."""
    parser = preparing.parser(__doc__)
    parser.add_argument(
        "--original",
        action="store_true",
        help="areas, boxes and covered stuff segments as in the published JSON: those of stuff "
        "before things were painted over it",
    )
    args = parser.parse_args(argv)
    with preparing.telling_errors():
        root = preparing.source("ADEChallengeData2016")
        preparing.source("ADEChallengeData2016", "annotations_instance")
        for split in preparing.present_splits(root / "annotations", RELEASED):
            prepare_split(root, split, args.workers, args.original)


if __name__ == "__main__":
    main()
