"""LabelMe's JSON, and Pascal VOC's XML with polygons, as supervision reads them."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from ..data.pairing import walk
from ..data.reading import naming, picture_size
from ..errors import InputError
from .folders import named_split
from .foreign import LABELME, Foreign, read_xml
from .gathering import Gathering, Instance, Picture, missing

_AREAS = ("polygon", "rectangle")  # LabelMe's shapes that supervision reads
_POLYGONS, _RECTANGLES = "polygons", "rectangles are taken as masks"
_NO_CLASSES = ("__ignore__", "_background_")  # as LabelMe's own conversions have it


def gather(found: Foreign, into: Gathering) -> None:
    """Reads all files of the kind below the folder.

    A picture at a time: supervision's own loaders hold the masks of all in memory.

    Raises:
        InputError: supervision is missing, or refuses a file.
    """
    try:
        from supervision.dataset.formats import labelme, pascal_voc
    except ImportError as error:
        raise missing(found, str(error)) from error
    is_labelme = found.kind is LABELME
    files = sorted(walk(into.folder, (".json",) if is_labelme else (".xml",)))
    for path in tqdm(files, unit="file", desc=f"Reading {found.kind.name}", leave=False):
        with warnings.catch_warnings(), _refusing(os.path.join(into.folder, path)):
            warnings.simplefilter("ignore")  # of shapes that are skipped: they are counted here
            if is_labelme:
                _read_labelme(labelme, path, into)
            else:
                _read_voc(pascal_voc, path, into)
    if into.counted[_RECTANGLES] and not into.counted[_POLYGONS]:
        raise InputError(
            f"{found.file} and what lies beside it have rectangles and no polygons; a model of "
            "masks cannot learn from boxes: draw polygons"
        )
    into.counted.pop(_POLYGONS, None)  # nothing that must be said


@contextmanager
def _refusing(file: str) -> Iterator[None]:
    """Turns what supervision raises about a file into one sentence."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"supervision cannot read {file} ({reason}); mend the file") from error


def _read_labelme(labelme: Any, path: str, into: Gathering) -> None:
    file = os.path.join(into.folder, path)
    with naming(file, "JSON"):
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict) or not {"shapes", "imagePath"} <= content.keys():
        return
    picture = into.find(str(content["imagePath"]), path)
    shapes = []
    for shape in content["shapes"]:
        kind, name = str(shape.get("shape_type")), str(shape.get("label"))
        if kind not in _AREAS or name in _NO_CLASSES:
            what = f"called {name}" if name in _NO_CLASSES else f"of the type {kind}"
            into.counted[f"shapes {what} are left out"] += 1
            continue
        into.counted[_RECTANGLES if kind == "rectangle" else _POLYGONS] += 1
        shapes.append(shape)
        into.names[name] = None
    height, width = _said_size(content) or picture_size(os.path.join(into.folder, picture))
    numbers = {name: number for number, name in enumerate(into.names)}
    detections = labelme.labelme_shapes_to_detections(
        shapes, numbers, (width, height), with_masks=True
    )
    _add(path, picture, (height, width), detections, into)


def _said_size(content: dict[str, Any]) -> tuple[int, int] | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    return (int(height), int(width)) if height and width else None


def _read_voc(pascal_voc: Any, path: str, into: Gathering) -> None:
    root = read_xml(os.path.join(into.folder, path))
    if root.tag != "annotation":
        return
    picture = into.find(root.findtext("filename") or Path(path).name, path)
    height, width = picture_size(os.path.join(into.folder, picture))
    detections, classes = pascal_voc.detections_from_xml_obj(
        root, list(into.names), (width, height), force_masks=True
    )
    into.names.update(dict.fromkeys(classes))
    _add(path, picture, (height, width), detections, into)


def _add(path: str, picture: str, size: tuple[int, int], detections: Any, into: Gathering) -> None:
    """Adds a picture with supervision's detections, whose masks [N, H, W] become run lengths."""
    names, instances = list(into.names), []
    masks = () if detections.mask is None else detections.mask
    for mask, number in zip(masks, detections.class_id, strict=True):
        if not mask.any():
            into.counted["objects without a mask are left out"] += 1
            continue
        lengths = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        box = coco_mask.toBbox(lengths).tolist()
        lengths["counts"] = lengths["counts"].decode()
        instances.append(Instance(names[number], lengths, float(mask.sum()), box))
    split = named_split(path) or named_split(picture)
    into.pictures.append(Picture(split, picture, size, instances))
