"""COCO's annotations to masks: polygons and run lengths of instances, segments of panoptic maps.

Errors name the image or the file, and the annotation.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.utils.logger import log_first_n
from pycocotools import mask as coco_mask

from ..errors import InputError
from .entries import Annotation, check_segmentation, check_segments
from .reading import listed, naming, rgb_to_id


class PanopticMap(NamedTuple):
    """A panoptic PNG that agrees with its segments."""

    ids: np.ndarray
    """[H, W]; int32, R + 256 G + 65536 B of a pixel, the id of its segment; 0 is void."""
    numbers: np.ndarray
    """[H, W]; uint8, or int16 for more than 255 segments: 0 is void, those that are no crowd count
    from 1 on in their order, and crowds go on from there."""


def read_panoptic_map(
    file_name: str, segments: Sequence[Annotation], num_classes: int | None = None
) -> PanopticMap:
    """Reads a panoptic PNG and compares it with its segments.

    Args:
        file_name: an RGB file.
        segments: the ``segments_info`` of the sample.
        num_classes: K; every ``category_id`` must be in 0..K-1. None checks none.

    Raises:
        InputError: the file is missing or broken, or file and segments do not agree.
    """
    with naming(file_name, "panoptic map"):
        ids = rgb_to_id(detection_utils.read_image(file_name, "RGB"))
    check_segments(file_name, segments, num_classes)
    ordered = sorted(segments, key=_is_crowd)
    kind = np.dtype(np.uint8 if len(segments) < 256 else np.int16)
    # Not np.zeros, which asks for huge pages: of these, only the few that are written cost time.
    table = np.frombuffer(bytearray(2**24 * kind.itemsize), kind)
    table[[segment["id"] for segment in ordered]] = range(1, len(segments) + 1)
    table[0] = 0
    numbers = table[ids]
    if (unlisted := ids[(numbers == 0) & (ids != 0)]).size:
        raise InputError(
            f"panoptic map {file_name} has segment ids {listed(set(unlisted.tolist()))} that its "
            "JSON does not list in segments_info; prepare the PNG and the JSON again, together"
        )
    pixels = torch.bincount(torch.from_numpy(numbers).flatten(), minlength=len(segments) + 1)
    unpainted = [s for s, count in zip(ordered, pixels[1:].tolist(), strict=True) if not count]
    if absent := {s["id"] for s in unpainted if not _may_be_covered(s, ids, segments)}:
        raise InputError(
            f"the JSON of panoptic map {file_name} lists segment ids {listed(absent)} that no "
            "pixel has; prepare the PNG and the JSON again, together"
        )
    return PanopticMap(ids, numbers)


def without_crowds(segments: Sequence[Annotation]) -> list[Annotation]:
    """The segments to learn, in their order."""
    return [segment for segment in segments if not _is_crowd(segment)]


def _is_crowd(segment: Annotation) -> bool:
    return bool(segment.get("iscrowd", 0))


def _may_be_covered(segment: Annotation, ids: np.ndarray, segments: Sequence[Annotation]) -> bool:
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


class Painted(NamedTuple):
    """The annotations that can be learnt, and their masks."""

    annotations: list[Annotation]
    masks: np.ndarray
    """[N, H, W]; uint8, 0 or 1."""
    ignored: np.ndarray
    """[H, W]; uint8, 1 in a crowd where none of the masks is."""


def paint(
    annotations: Sequence[Annotation],
    image_file: str,
    size: tuple[int, int],
    num_classes: int | None = None,
) -> Painted:
    """Paints polygons and run lengths, all that are no crowd and have a pixel.

    Args:
        annotations: Detectron2's, with ``category_id`` and ``segmentation``.
        image_file: named in errors.
        size: height and width of the image.
        num_classes: K; every ``category_id`` must be in 0..K-1. None checks none.

    Raises:
        InputError: an annotation has no mask (a crowd may lack one), one of another size or place,
            or another category.
    """
    kept, masks = [], []
    crowd = np.zeros(size, np.uint8)
    for index, annotation in enumerate(annotations):
        where = f"annotation {annotation.get('id', index)} of image {image_file}"
        if (is_crowd := annotation.get("iscrowd", 0)) not in (0, 1):
            raise InputError(f"{where} has the iscrowd {is_crowd!r}; it must be 0 or 1")
        if is_crowd:
            crowd |= _paint_crowd(where, annotation, size)
            continue
        _check_category(where, annotation, num_classes)
        mask = _paint_one(where, annotation.get("segmentation"), size)
        if mask.any():
            kept.append(annotation)
            masks.append(mask)
        else:
            log_first_n(
                logging.WARNING,
                f"{where} has no pixel, as a line or a point has none: such ones are left out",
                name=__name__,
            )
    stacked = np.stack(masks) if masks else np.zeros((0, *size), np.uint8)
    return Painted(kept, stacked, crowd & ~stacked.any(axis=0))


def _check_category(where: str, annotation: Annotation, num_classes: int | None) -> None:
    category = annotation.get("category_id")
    if not isinstance(category, int):
        raise InputError(f"{where} has the category_id {category!r}; give each a class id")
    if num_classes is not None and not 0 <= category < num_classes:
        raise InputError(
            f"{where} has category_id {category}, but the classes are 0 to {num_classes - 1}; map "
            "it to one of these, or set MODEL.SEM_SEG_HEAD.NUM_CLASSES to fit"
        )


def _paint_crowd(where: str, annotation: Annotation, size: tuple[int, int]) -> np.ndarray:
    """[H, W]; uint8. A crowd need not have a mask."""
    if "segmentation" not in annotation:
        return np.zeros(size, np.uint8)
    return _paint_one(where, annotation["segmentation"], size)


def _paint_one(where: str, segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """[H, W]; uint8."""
    check_segmentation(where, segmentation, size)
    if not segmentation:
        return np.zeros(size, np.uint8)
    if isinstance(segmentation, list):
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)))
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    return coco_mask.decode(segmentation)
