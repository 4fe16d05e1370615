"""Reading the files of one sample, with errors that name the file, what is wrong and the remedy.

Detectron2 reads what it finds: a label id outside the classes ends as an index error on the GPU, in
another place and often in another process. Here every file is checked on the CPU, before any
augmentation could hide what is wrong with it.
"""

import os
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from detectron2.data import detection_utils
from PIL import Image

from ..errors import InputError

# What Pillow and json raise on a broken file, whichever its format.
_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    struct.error,
    Image.DecompressionBombError,
)
_LISTED = 10  # ids named in an error; a label map in the wrong format can have thousands


def describe_root() -> str:
    """The value of ``DETECTRON2_DATASETS`` now, for an error about a path."""
    value = os.environ.get("DETECTRON2_DATASETS")
    if value is None:
        return "DETECTRON2_DATASETS is not set: datasets in the working directory"
    return f"DETECTRON2_DATASETS is {value!r}" + ("" if os.path.isdir(value) else ", no folder")


@contextmanager
def naming(file_name: str, what: str) -> Iterator[None]:
    """Turns whatever reading a file raises into one sentence about the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"{what} {file_name} does not exist; restore it, or set DETECTRON2_DATASETS to the "
            f"folder that holds the data sets ({describe_root()})"
        ) from error
    except _UNDECODABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{what} {file_name} cannot be read ({reason}): it is truncated or in another format; "
            "replace the file, or take it out of the data set"
        ) from error


def read_image(sample: dict[str, Any], image_format: str) -> np.ndarray:
    """The image [H, W, 3] of a sample; its ``height`` and ``width`` are filled in if missing."""
    file_name = sample["file_name"]
    with naming(file_name, "image"):
        image = detection_utils.read_image(file_name, image_format)
    try:
        detection_utils.check_image_size(sample, image)
    except detection_utils.SizeMismatchError as error:
        expected = f"{sample['width']}x{sample['height']}"
        raise InputError(
            f"image {file_name} is {_size(image)} pixels (width x height), but its annotation says "
            f"{expected}; mend the annotation, or restore the image that was annotated"
        ) from error
    return image


def read_label_map(
    file_name: str, num_classes: int | None = None, ignore_label: int | None = None
) -> np.ndarray:
    """A semantic label map: a file with one channel of class ids, a palette file included.

    Args:
        file_name: an image file with 8, 16 or 32 bits a pixel.
        num_classes: K; ids must be 0..K-1. None checks no ids.
        ignore_label: the one other id that is allowed.

    Returns:
        [H, W]; int64.

    Raises:
        InputError: if the file is missing, broken, no index map, or has other ids.
    """
    with naming(file_name, "label map"):
        labels = detection_utils.read_image(file_name)
    if labels.ndim != 2 or labels.dtype.kind not in "bui":
        found = "values of type " + str(labels.dtype)
        if labels.ndim != 2:
            found = f"{labels.shape[2]} channels (RGB, RGBA or alike)"
        raise InputError(
            f"label map {file_name} has {found}, but one channel of integer class ids is expected "
            "(greyscale, palette or 16-bit); convert its colours to class ids"
        )
    labels = labels.astype(np.int64)
    if num_classes is not None:
        _check_ids(file_name, labels, num_classes, ignore_label)
    return labels


def _check_ids(
    file_name: str, labels: np.ndarray, num_classes: int, ignore_label: int | None
) -> None:
    outside = labels[(labels < 0) | (labels >= num_classes)]
    found = set(np.unique(outside).tolist()) - {ignore_label}
    if found:
        raise InputError(
            f"label map {file_name} has ids {_listed(found)}, but the classes are 0 to "
            f"{num_classes - 1} and the ignore label is {ignore_label}; map the file's ids to "
            "these, or set MODEL.SEM_SEG_HEAD.NUM_CLASSES and the data set's ignore_label to fit"
        )


def check_same_size(
    label_file: str, labels: np.ndarray, image_file: str, image: np.ndarray
) -> None:
    """Refuses a label map whose height and width are not those of its image."""
    if labels.shape[:2] != image.shape[:2]:
        raise InputError(
            f"label map {label_file} is {_size(labels)} pixels (width x height), but its image "
            f"{image_file} is {_size(image)}; they must be equal: prepare the data set again, or "
            "restore the file that was resized"
        )


def read_panoptic_map(
    file_name: str, segments: Sequence[dict[str, Any]], num_classes: int | None = None
) -> np.ndarray:
    """A panoptic PNG that agrees with its segments, still in colours.

    Args:
        file_name: an RGB file; R + 256 G + 65536 B is the id of a pixel's segment, 0 is void.
        segments: the ``segments_info`` of the sample.
        num_classes: K; every ``category_id`` must be in 0..K-1. None checks none.

    Returns:
        [H, W, 3]; uint8.
    """
    with naming(file_name, "panoptic map"):
        colors = detection_utils.read_image(file_name, "RGB")
    _check_segment_keys(file_name, segments)
    _check_categories(file_name, segments, num_classes)
    _check_segment_ids(file_name, rgb_to_id(colors), segments)
    return colors


def rgb_to_id(colors: np.ndarray) -> np.ndarray:
    """Segment ids [H, W], int64, of the colours [H, W, 3] of a panoptic PNG."""
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    return red + 256 * green + 65536 * blue


def _check_segment_keys(file_name: str, segments: Sequence[dict[str, Any]]) -> None:
    for segment in segments:
        missing = [key for key in ("id", "category_id", "iscrowd") if key not in segment]
        if missing:
            raise InputError(
                f"a segment of {file_name} lacks {', '.join(missing)}: its segments_info has only "
                f"{', '.join(segment) or 'nothing'}; add the missing keys to the annotation"
            )


def _check_categories(
    file_name: str, segments: Sequence[dict[str, Any]], num_classes: int | None
) -> None:
    found = {segment["category_id"] for segment in segments}
    outside = found - set(range(num_classes)) if num_classes is not None else set()
    if outside:
        raise InputError(
            f"the segments of {file_name} have category_id {_listed(outside)}, but the classes "
            f"are 0 to {num_classes - 1}; map them to these, or set "
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES to fit"
        )


def _check_segment_ids(file_name: str, ids: np.ndarray, segments: Sequence[dict[str, Any]]) -> None:
    painted, listed = set(np.unique(ids).tolist()) - {0}, {segment["id"] for segment in segments}
    unpainted = [segment for segment in segments if segment["id"] not in painted]
    absent = {s["id"] for s in unpainted if not _may_be_covered(s, ids, segments)}
    if unlisted := painted - listed:
        raise InputError(
            f"panoptic map {file_name} has segment ids {_listed(unlisted)} that its JSON does not "
            "list in segments_info; prepare the PNG and the JSON again, together"
        )
    if absent:
        raise InputError(
            f"the JSON of panoptic map {file_name} lists segment ids {_listed(absent)} that no "
            "pixel has; prepare the PNG and the JSON again, together"
        )


def _may_be_covered(
    segment: dict[str, Any], ids: np.ndarray, segments: Sequence[dict[str, Any]]
) -> bool:
    """Whether things can have been painted over all of a stuff segment.

    The published ADE20K panoptic files are painted stuff first, things over it, and keep the area
    and the box that the stuff had before: a stuff segment may be gone if things fill as much of its
    box.
    """
    if segment.get("isthing", True) or not segment.get("bbox") or not segment.get("area"):
        return False
    x, y, width, height = (int(side) for side in segment["bbox"])
    things = [other["id"] for other in segments if other.get("isthing")]
    covered = np.isin(ids[y : y + height, x : x + width], things).sum()
    return bool(covered >= segment["area"])


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _listed(ids: Collection[int]) -> str:
    named = ", ".join(str(value) for value in sorted(ids)[:_LISTED])
    more = len(ids) - _LISTED
    return f"{named} and {more} more" if more > 0 else named
