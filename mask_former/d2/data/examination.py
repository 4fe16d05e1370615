"""One picture of a data set and its labels, read whole: what they hold and what is wrong with them.

This is the part of a survey that takes time, so it can run in many processes and its results are
kept as JSON.
"""

import hashlib
import json
import os
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..errors import InputError
from . import annotations
from .reading import (
    LabelValues,
    as_displayed,
    check_same_size,
    naming,
    orientation,
    read_label_map,
    read_picture,
    read_values,
)

Sample = dict[str, Any]
Record = dict[str, Any]
"""What was found, as JSON has it:

* ``problems``: pairs of a kind (see :mod:`.findings`) and a sentence that names the file.
* ``picture``: ``size`` (height and width as displayed), ``kind`` of file, ``orientation`` (EXIF),
  ``hash`` of the pixels, ``flat`` (whether it has one colour); missing if it cannot be read.
* ``labels``: missing without labels that can be read. Of a label map ``values``, pairs of a value
  and its pixels; ``between``, the same of pixels between a lower and a higher neighbour. Else
  ``segments``, triples of a class, its pixels and whether it is a crowd. And ``size``: the number
  of pixels.
"""

_FORMAT = 2  # to be raised when a record changes
_MOST_VALUES = 4096  # that a label map has; one with more is a picture
_CHANNELS = {"1": "1 bit", "P": "palette of 8 bits", "L": "8 bits", "F": "32 bits, floating point"}
_LABELS = {"sem_seg_file_name", "pan_seg_file_name", "annotations"}
_NO_RANGE = ("I", "F")  # modes of Pillow that read_picture refuses


class Work(NamedTuple):
    """A sample that is to be examined."""

    sample: Sample
    num_classes: int
    ignore_label: int

    def key(self) -> str:
        """Tells whether a record still holds: names and stamps of files, and the annotations."""
        rest = {k: v for k, v in self.sample.items() if k != "label_values"}
        if not {"segments_info", "annotations"} & rest.keys():
            rest = {"colors": _in_colors(self.sample)}  # the classes come into it later
        else:
            rest["classes"] = [self.num_classes, self.ignore_label, self.sample.get("label_values")]
        content = json.dumps([_FORMAT, self._stamps(), rest], default=repr)
        return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()

    def size(self) -> int:
        """Bytes of the files; those that are missing have none."""
        return sum(size for _, size, _ in self._stamps())

    def _stamps(self) -> list[tuple[str, int, int]]:
        """Name, size and time of the files."""
        stamps = []
        for name in ("file_name", "sem_seg_file_name", "pan_seg_file_name"):
            if (file := self.sample.get(name)) is not None:
                found = os.stat(file) if os.path.isfile(file) else None
                stamps.append((file, found.st_size, found.st_mtime_ns) if found else (file, 0, 0))
        return stamps


def _in_colors(sample: Sample) -> bool:
    values: LabelValues | None = sample.get("label_values")
    return values is not None and values.colors


def examine(work: Work) -> str:
    """Reads the files of a sample; nothing that is wrong with them stops it.

    Returns:
        The record as JSON.
    """
    sample, record = work.sample, Record(problems=[])
    image = _examine_picture(record, sample)
    if "pan_seg_file_name" in sample:
        _examine_panoptic_map(record, work, image)
    elif "sem_seg_file_name" in sample:
        _examine_label_map(record, sample, image)
    elif "annotations" in sample and image is not None:
        _examine_annotations(record, work, image)
    return json.dumps(record)


def _tell(record: Record, kind: str, sentence: object) -> None:
    record["problems"].append([kind, str(sentence)])


def _examine_picture(record: Record, sample: Sample) -> np.ndarray | None:
    """The picture [H, W, 3]; None if it cannot be read."""
    file_name, mode = sample["file_name"], ""
    try:
        with naming(file_name, "image"), Image.open(file_name) as picture:
            mode, file_format, bands = picture.mode, picture.format, len(picture.getbands())
        image = read_picture(file_name, "RGB")
        turn = orientation(file_name)
    except InputError as error:
        _tell(record, "mode" if mode in _NO_RANGE else "picture", error)
        return None
    depth = "16 bits" if mode.startswith("I;16") else _CHANNELS.get(mode, f"{bands} x 8 bits")
    flat = (image[::16, ::16] == image[0, 0]).all() and (image == image[0, 0]).all()
    record["picture"] = {
        "size": image.shape[:2],
        "kind": f"{file_format}, {mode} ({depth})",
        "orientation": turn,
        "hash": _hash(image),
        "flat": bool(flat),
    }
    height, width = image.shape[:2]
    is_labelled = not _LABELS.isdisjoint(sample)
    if is_labelled and (turn in (2, 3, 4) or (turn > 4 and height == width)):
        _tell(record, "exif_unclear", f"{file_name} (EXIF orientation {turn})")
    return image


def _hash(image: np.ndarray) -> str:
    """Alike for the same pixels, whatever the format of the file."""
    content = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=12)
    content.update(repr(image.shape).encode())
    return content.hexdigest()


def _examine_label_map(record: Record, sample: Sample, image: np.ndarray | None) -> None:
    file_name = sample["sem_seg_file_name"]
    try:
        values = read_values(file_name, _in_colors(sample))
        with naming(file_name, "label map"), Image.open(file_name) as picture:
            is_lossy = picture.format in ("JPEG", "MPO")
    except InputError as error:
        _tell(record, "labels", error)
        return
    if is_lossy:
        _tell(record, "jpeg", file_name)
    if image is not None:
        _compare_sizes(record, sample, values, image)
    found, counts = _count(values)
    if len(found) > _MOST_VALUES:
        _tell(record, "many_values", f"{file_name} has {len(found)} different values")
        return
    pairs = zip(found.tolist(), counts.tolist(), strict=True)
    record["labels"] = {"values": list(pairs), "size": values.size}
    if len(found) > 2 and not _in_colors(sample):
        between = _count(values[_is_between(values)])
        record["labels"]["between"] = [*zip(*(each.tolist() for each in between), strict=True)]


def _compare_sizes(record: Record, sample: Sample, values: np.ndarray, image: np.ndarray) -> None:
    label_file, image_file = sample["sem_seg_file_name"], sample["file_name"]
    try:
        shown = as_displayed(label_file, values, image_file, image)
    except InputError as error:
        _tell(record, "size", error)
        return
    if shown is not values:
        turn = record["picture"]["orientation"]
        _tell(record, "exif", f"{label_file} (EXIF orientation {turn} of {image_file})")


def _count(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur and the pixels of each."""
    if values.dtype.itemsize > 2 and values.size and (values.min() < 0 or values.max() > 65535):
        return np.unique(values, return_counts=True)
    counts = np.bincount(values.ravel())
    found = np.flatnonzero(counts)
    return found, counts[found]


def _is_between(values: np.ndarray) -> np.ndarray:
    """Whether each of the values [H, W] lies between those left and right, or above and below."""
    found = np.zeros(values.shape, bool)
    for is_between, turned in ((found, values), (found.T, values.T)):
        before, here, after = turned[:, :-2], turned[:, 1:-1], turned[:, 2:]
        rises, falls = (before < here) & (here < after), (before > here) & (here > after)
        is_between[:, 1:-1] |= rises | falls
    return found


def _examine_panoptic_map(record: Record, work: Work, image: np.ndarray | None) -> None:
    sample, segments = work.sample, work.sample["segments_info"]
    file_name = sample["pan_seg_file_name"]
    try:
        numbers = annotations.read_panoptic_map(file_name, segments, work.num_classes).numbers
    except InputError as error:
        # Only what comes from reading the file has another error as its cause.
        _tell(record, "labels" if error.__cause__ else "annotations", error)
        return
    if image is not None and numbers.shape != image.shape[:2]:
        lies = _lies_on_its_side(record, numbers.shape)
        try:
            check_same_size(file_name, numbers, sample["file_name"], image)
        except InputError as error:
            _tell(record, "exif_stored" if lies else "size", error)
    if "sem_seg_file_name" in sample and image is not None:
        _check_labels_beside(record, work, image)
    counts = np.bincount(numbers.ravel(), minlength=len(segments) + 1).tolist()
    ordered = sorted(segments, key=lambda segment: bool(segment.get("iscrowd", 0)))
    record["labels"] = {
        "segments": [
            [segment["category_id"], count, bool(segment.get("iscrowd", 0))]
            for segment, count in zip(ordered, counts[1:], strict=True)
        ],
        "size": numbers.size,
    }


def _check_labels_beside(record: Record, work: Work, image: np.ndarray) -> None:
    """Of the label map that a panoptic sample has, too."""
    sample = work.sample
    file_name, values = sample["sem_seg_file_name"], sample.get("label_values")
    try:
        labels = read_label_map(file_name, work.num_classes, work.ignore_label, values)
        as_displayed(file_name, labels, sample["file_name"], image)
    except InputError as error:
        _tell(record, "labels", error)


def _lies_on_its_side(record: Record, size: tuple[int, ...]) -> bool:
    """Whether labels of this size fit the picture as it is stored and not as it is displayed."""
    picture = record["picture"]
    return picture["orientation"] > 4 and tuple(size) == tuple(picture["size"][::-1])


def _examine_annotations(record: Record, work: Work, image: np.ndarray) -> None:
    sample, found = work.sample, work.sample["annotations"]
    height, width = image.shape[:2]
    said = (sample.get("height", height), sample.get("width", width))
    if said != (height, width):
        kind = "exif_stored" if _lies_on_its_side(record, said) else "size"
        size = f"{width}x{height} pixels (width x height), but its annotation says "
        _tell(record, kind, f"image {sample['file_name']} is {size}{said[1]}x{said[0]}")
        return
    try:
        painted = annotations.paint(found, sample["file_name"], said, work.num_classes)
    except InputError as error:
        _tell(record, "annotations", error)
        return
    crowds = sum(bool(entry.get("iscrowd", 0)) for entry in found)
    if without := len(found) - crowds - len(painted.annotations):
        _tell(record, "no_pixel", f"{sample['file_name']} ({without} of {len(found)})")
    learnt = zip(painted.annotations, painted.masks, strict=True)
    covered = painted.masks.any(axis=0).astype(np.uint8)
    record["labels"] = {
        "segments": [[e["category_id"], cv2.countNonZero(mask), False] for e, mask in learnt],
        "labelled": cv2.countNonZero(covered),
        "size": height * width,
    }
