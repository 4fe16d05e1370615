"""Which annotations lie in a folder that no reader of this package understands."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from ..data.pairing import walk
from ..data.reading import naming
from ..errors import InputError

_PER_FOLDER, _MOST = 2, 40  # files of annotations that are looked at


class Kind(NamedTuple):
    """A format of annotations."""

    name: str
    package: str | None = None
    """That reads it; None: none does."""
    format: str = ""
    """As Datumaro calls it."""
    remedy: str = ""
    """What to do where no package reads it."""
    before_masks: bool = False
    """Whether it explains files that would pass for label maps."""


LABELME = Kind("LabelMe's JSON", "supervision")
VOC_POLYGONS = Kind("Pascal VOC's XML with polygons", "supervision")
LABELME_XML = Kind("LabelMe's XML", "datumaro", "label_me")
CVAT = Kind("CVAT's XML", "datumaro", "cvat")
DATUMARO = Kind("Datumaro's JSON", "datumaro", "datumaro")
_VIA = Kind(
    "the VGG Image Annotator's JSON",
    remedy="no package here reads it: in the annotator, choose Annotation, Export Annotations "
    "(COCO format)",
)
_SUPERVISELY = Kind(
    "Supervisely's JSON",
    remedy="no package here reads it: in Supervisely, export as COCO or as segmentation masks",
)
_VOC_BOXES = Kind(
    "Pascal VOC's XML with boxes alone",
    remedy="a model of masks cannot learn from boxes: add the folder SegmentationClass, or export "
    "with polygons",
)
_CITYSCAPES = Kind(
    "Cityscapes' polygons without label maps",
    remedy="make them: pip install cityscapesscripts, and CITYSCAPES_DATASET=FOLDER "
    "csCreateTrainIdLabelImgs",
)
_ADE20K = Kind(
    "the full ADE20K as it is downloaded",
    remedy="python datasets/prepare_ade20k_full_sem_seg.py makes label maps of it; train with "
    "configs/ade20k-full-847",
    before_masks=True,
)


class Foreign(NamedTuple):
    """Annotations of a format that is converted, or refused."""

    kind: Kind
    file: str
    """One of them."""


def find_foreign(folder: str, is_needed: bool = True) -> Foreign | None:
    """Looks at a few JSON and XML files of each folder below one.

    Args:
        folder: searched with its folders.
        is_needed: whether nothing else explains the folder; if not, a broken file does not matter.

    Raises:
        InputError: a file is broken.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in sorted(walk(folder, (".json", ".xml"))):
        by_folder[os.path.dirname(path) + os.path.splitext(path)[1].lower()].append(path)
    looked_at = [path for paths in by_folder.values() for path in paths[:_PER_FOLDER]]
    for path in looked_at[:_MOST]:
        file = os.path.join(folder, path)
        try:
            kind = _kind(file)
        except InputError:
            if is_needed:
                raise
            continue
        if kind is not None:
            is_boxes = kind is _VOC_BOXES and any(_polygons(folder))
            return Foreign(VOC_POLYGONS if is_boxes else kind, file)
    return None


def refuse(found: Foreign) -> InputError:
    """The error for a format that no package reads."""
    return InputError(f"{found.file} is {found.kind.name}; {found.kind.remedy}")


def _polygons(folder: str) -> Iterator[bool]:
    """For each XML file whether it has a polygon: a picture may have none."""
    for path in walk(folder, (".xml",)):
        yield b"<polygon" in Path(folder, path).read_bytes()


def _kind(file: str) -> Kind | None:
    if file.lower().endswith(".xml"):
        with naming(file, "XML"):
            return _kind_of_xml(read_xml(file))
    with naming(file, "JSON"):
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    return _kind_of_json(content) if isinstance(content, dict) else None


def read_xml(file: str) -> ElementTree.Element:
    """The root of an XML file.

    Raises:
        InputError: it is none, or declares entities, which could fill the memory.
    """
    text = Path(file).read_bytes()
    try:
        if re.search(rb"<!ENTITY", text):
            raise InputError(f"XML {file} declares entities, which annotations do not; mend it")
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"XML {file} cannot be read ({error}); export it again") from error


def _kind_of_xml(root: ElementTree.Element) -> Kind | None:
    if root.tag == "annotations" and root.find("meta") is not None:
        return CVAT
    if root.tag != "annotation":
        return None
    if root.find("object/polygon/pt") is not None or root.find("object/segm") is not None:
        return LABELME_XML
    if root.find("object/polygon/x1") is not None:
        return VOC_POLYGONS
    return _VOC_BOXES if root.find("object/bndbox") is not None else None


def _kind_of_json(content: dict[str, Any]) -> Kind | None:
    keys = content.keys()
    entry = next(iter(content.values()), None)
    is_of_via = isinstance(entry, dict) and {"filename", "regions"} <= entry.keys()
    tests = {
        LABELME: {"shapes", "imagePath"} <= keys,
        DATUMARO: {"items", "categories"} <= keys,
        _VIA: "_via_img_metadata" in keys or is_of_via,
        _SUPERVISELY: {"objects", "size", "tags"} <= keys or {"classes", "tags"} <= keys,
        _CITYSCAPES: {"imgHeight", "imgWidth", "objects"} <= keys,
        _ADE20K: isinstance(content.get("annotation"), dict)
        and {"filename", "object"} <= content["annotation"].keys(),
    }
    return next((kind for kind, is_so in tests.items() if is_so), None)
