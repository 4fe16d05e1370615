"""One annotation of COCO's formats: what it must have, and what its numbers may be.

Errors name the image or the file, and the annotation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .reading import listed

Annotation = dict[str, Any]


def check_segments(where: str, segments: Sequence[Annotation], num_classes: int | None) -> None:
    """Refuses segments of a picture that lack something, or that cannot be told apart.

    Args:
        where: the file or the entry, for the sentence.
        segments: a ``segments_info``.
        num_classes: K; every ``category_id`` must be in 0..K-1. None checks none.
    """
    for segment in segments:
        missing = [key for key in ("id", "category_id") if key not in segment]
        if missing:
            raise InputError(
                f"a segment of {where} lacks {', '.join(missing)}: its segments_info has only "
                f"{', '.join(segment) or 'nothing'}; add the missing keys to the annotation"
            )
        number, crowd = segment["id"], segment.get("iscrowd", 0)
        if type(number) is not int or not 0 < number < 2**24 or crowd not in (0, 1):
            raise InputError(
                f"a segment of {where} has the id {number!r} and the iscrowd {crowd!r}, but an id "
                "is a whole number from 1 to 2^24 - 1 and iscrowd 0 or 1; mend its segments_info"
            )
        area, category = segment.get("area", 0), segment["category_id"]
        if not _is_area(area) or isinstance(category, list | dict):
            raise InputError(
                f"a segment of {where} has the area {area!r} and the category_id {category!r}; "
                "give the number of its pixels, or leave the area out, and the id of a class"
            )
    ids = [segment["id"] for segment in segments]
    if len(set(ids)) < len(ids):
        twice = {each for each in ids if ids.count(each) > 1}
        raise InputError(
            f"the segments of {where} have the ids {listed(twice)} more than once; give each "
            "segment of an image an id of its own, in the PNG, too"
        )
    found = {segment["category_id"] for segment in segments}
    if num_classes is not None and (outside := found - set(range(num_classes))):
        raise InputError(
            f"the segments of {where} have category_id {listed(outside)}, but the classes "
            f"are 0 to {num_classes - 1}; map them to these, or set "
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES to fit"
        )


def _is_area(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < float("inf")


def check_segmentation(where: str, segmentation: Any, size: tuple[int, int]) -> None:
    """Refuses what is neither polygons nor run lengths of an image.

    Args:
        where: the annotation, for the sentence.
        segmentation: of a JSON in COCO's format, or of Detectron2's samples.
        size: height and width of the image.
    """
    if isinstance(segmentation, dict):
        _check_run_lengths(where, segmentation, size)
    elif isinstance(segmentation, list):
        _check_polygons(where, segmentation, size)
    else:
        raise InputError(
            f"{where} has the segmentation {segmentation!r}, but polygons or run lengths are "
            "expected; a box alone is not enough: take the annotation out, or give it a mask"
        )


def _check_run_lengths(where: str, lengths: dict[str, Any], size: tuple[int, int]) -> None:
    found, counts = lengths.get("size"), lengths.get("counts")
    if not isinstance(found, list | tuple) or tuple(found) != tuple(size):
        raise InputError(
            f"{where} has run lengths of size {found} (height, width), but the image "
            f"has {list(size)}; mend the annotation, or restore the image that was annotated"
        )
    try:
        runs = np.asarray(counts) if isinstance(counts, list) else _decompressed(counts)
        if runs.dtype.kind not in "iu" or runs.ndim != 1 or (runs < 0).any():
            raise ValueError("they are no whole numbers >= 0")
        # pycocotools would leave the rest of the mask to what the memory holds.
        if (pixels := int(runs.sum())) != size[0] * size[1]:
            raise ValueError(f"they count {pixels} pixels of {size[0] * size[1]}")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where} has run lengths that cannot be read ({error}); prepare the JSON again"
        ) from error


def _decompressed(counts: Any) -> np.ndarray:
    """The run lengths [n] in COCO's text, of 5 bits a character, the lowest first.

    From the fourth on, a number is the difference to the last but one.
    """
    text = counts.encode() if isinstance(counts, str) else counts
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("the text of their counts is no such code, or ends early")
    first = np.flatnonzero(np.concatenate([[True], codes[:-1] & 32 == 0]))
    number = np.diff(np.append(first, len(codes)))  # of characters
    shift = 5 * (np.arange(len(codes)) - np.repeat(first, number))
    runs = np.add.reduceat((codes & 31) << shift, first)
    negative = codes[first + number - 1] & 16 != 0
    runs -= np.where(negative, 1 << 5 * number, 0)
    for start in (1, 2):
        runs[start::2] = np.cumsum(runs[start::2])
    return runs


def _check_polygons(where: str, polygons: list[Any], size: tuple[int, int]) -> None:
    for polygon in polygons:
        if not isinstance(polygon, list | tuple | np.ndarray) or np.ndim(polygon[:1]) != 1:
            raise InputError(
                f"{where} has the polygon {str(polygon)[:60]}, but a list of numbers x, y, x, y, … "
                "is expected, one for each polygon; mend the annotation"
            )
        if len(polygon) < 6 or len(polygon) % 2:
            raise InputError(
                f"{where} has a polygon of {len(polygon)} numbers, but at least three pairs x, y "
                "are needed; take the polygon out of the annotation, or mend it"
            )
        _check_places(where, polygon, size)


def _check_places(where: str, polygon: Any, size: tuple[int, int]) -> None:
    height, width = size
    reach = 2 * min(size)
    try:  # the quick way is enough for nearly all; NaN is in no range
        if -reach <= min(polygon) and max(polygon) <= reach and sum(polygon) < float("inf"):
            return
        points = np.asarray(polygon, float).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where} has a polygon in which not all are numbers; mend the annotation"
        ) from error
    # What overshoots a little is cut.
    if not (np.abs(points) <= (2 * width, 2 * height)).all():
        raise InputError(
            f"{where} has a polygon from {points.min(0).tolist()} to {points.max(0).tolist()} "
            f"(x, y), but the image is {width}x{height} pixels (width x height); mend the "
            "annotation, or restore the image that was annotated"
        )
