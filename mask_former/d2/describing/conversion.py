"""Annotations of other programs made COCO's instances, by supervision or Datumaro."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from ..data.pairing import PICTURE_EXTENSIONS, walk
from ..data.reading import naming, picture_size
from ..errors import InputError
from ..run.files import replacing
from .coco import Annotations
from .folders import named_split
from .foreign import CVAT, LABELME, Foreign, Kind, read_xml, refuse

_DATUM = "MASK_FORMER_DATUM"
_INSTALL = {
    "supervision": 'pip install "supervision>=0.31.2"',
    "datumaro": 'python -m venv DIR && DIR/bin/pip install "datumaro[cli]" && '
    f"export {_DATUM}=DIR/bin/datum",
}
_CAUSE = re.compile(r"^[\w.]*(?:Error|Exception|Exit)\b.*", re.MULTILINE)
_AREAS = ("polygon", "rectangle")  # LabelMe's shapes that supervision reads
_NO_CLASSES = ("__ignore__", "_background_")  # as LabelMe's own conversions have it
# CVAT's, that are no areas; Datumaro leaves them out without a word.
_NO_AREAS = ("points", "polyline", "ellipse", "cuboid", "skeleton", "tag")


class _Instance(NamedTuple):
    name: str
    segmentation: Any
    """As COCO has it."""
    area: float
    box: list[float]


class _Picture(NamedTuple):
    split: str
    """Empty where nothing says it."""
    path: str
    """Below the folder."""
    size: tuple[int, int]
    instances: list[_Instance]


def convert(found: Foreign, folder: str, output: str) -> tuple[list[Annotations], list[str]]:
    """Writes annotations anew as COCO's instances, in files below ``output/converted``.

    Args:
        found: what :func:`.foreign.find_foreign` gave.
        folder: absolute; its pictures stay where they are.
        output: an existing folder.

    Returns:
        Annotations with absolute paths of JSON files, and sentences about what was left out.

    Raises:
        InputError: no package reads the format, or it is not installed, or it refuses a file.
    """
    if found.kind.package is None:
        raise refuse(found)
    read = _by_supervision if found.kind.package == "supervision" else _by_datumaro
    counted: Counter[str] = Counter()
    names: dict[str, None] = {}
    pictures = list(read(found, _Lookup(folder), names, counted))
    if not any(picture.instances for picture in pictures):
        told = "".join(f"; {number} {what}" for what, number in sorted(counted.items()))
        raise InputError(
            f"{found.file} and what lies beside it, {found.kind.name}, have no polygons or masks"
            f"{told}; a model of masks cannot learn from them"
        )
    file = os.path.relpath(found.file, folder)
    target = os.path.join(output, "converted")
    notes = [
        f"{found.kind.name} ({file} and others) is read by {found.kind.package} and written as "
        f"COCO's instances in {target}"
    ]
    notes += [f"{number} {what}" for what, number in sorted(counted.items())]
    return _write(pictures, list(names), target), notes


class _Lookup:
    """The pictures of a folder, found by what annotations call them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in sorted(walk(folder, PICTURE_EXTENSIONS)):
            self._by_stem[_stem(path)].append(path)

    def find(self, name: str, near: str) -> str:
        """The path of a picture below the folder.

        Args:
            name: with folders as the annotations have them, and perhaps another extension.
            near: the file of annotations, or a folder, below the folder; where several pictures
                have the name, the one next to it is meant.

        Raises:
            InputError: none has the name, or several have it.
        """
        name = name.replace("\\", "/")
        possible = self._by_stem.get(_stem(name), [])
        if not possible:
            raise InputError(
                f"{near} names {name}, which lies nowhere in {self.folder}; put the pictures there"
            )
        best = max(self._likeness(path, name, near) for path in possible)
        likely = [path for path in possible if self._likeness(path, name, near) == best]
        if len(likely) > 1:
            raise InputError(
                f"{near} names {name}, which may be {likely[0]} or {likely[1]} in {self.folder}; "
                "take one away"
            )
        return likely[0]

    @staticmethod
    def _likeness(path: str, name: str, near: str) -> tuple[int, ...]:
        is_named = os.path.basename(path) == os.path.basename(name)
        as_written = _shared(reversed(path.split("/")), reversed(name.split("/")))
        together = _shared(iter(path.split("/")), iter(near.split("/")))
        is_split = named_split(path) == named_split(near)
        return int(is_named), as_written, int(is_split), together


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0].lower()


def _shared(one: Iterator[str], two: Iterator[str]) -> int:
    """How many parts are the same from the beginning on."""
    number = 0
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        number += 1
    return number


def _by_supervision(
    found: Foreign, pictures: _Lookup, names: dict[str, None], counted: Counter[str]
) -> Iterator[_Picture]:
    try:
        from supervision.dataset.formats import labelme, pascal_voc
    except ImportError as error:
        raise _missing(found, str(error)) from error
    is_labelme = found.kind is LABELME
    read = _read_labelme if is_labelme else _read_voc
    reader = labelme if is_labelme else pascal_voc
    files = sorted(walk(pictures.folder, (".json",) if is_labelme else (".xml",)))
    has_polygons = False
    boxes: list[_Picture] = []
    for path in tqdm(files, unit="file", desc=f"Reading {found.kind.name}", leave=False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that are skipped: they are counted
            picture = read(reader, path, pictures, names, counted)
        if picture is not None:
            has_polygons |= picture[1]
            boxes.append(picture[0])
    if is_labelme and not has_polygons and any(picture.instances for picture in boxes):
        raise InputError(
            f"{found.file} and what lies beside it have rectangles and no polygons; a box is no "
            "mask: draw polygons"
        )
    yield from boxes


def _read_labelme(
    labelme: Any, path: str, pictures: _Lookup, names: dict[str, None], counted: Counter[str]
) -> tuple[_Picture, bool] | None:
    """The picture of a file, and whether it has polygons; None: the file is something else."""
    file = os.path.join(pictures.folder, path)
    with naming(file, "JSON"):
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict) or not {"shapes", "imagePath"} <= content.keys():
        return None
    found = pictures.find(str(content["imagePath"]), path)
    size = content.get("imageHeight"), content.get("imageWidth")
    height, width = size if all(size) else picture_size(os.path.join(pictures.folder, found))
    shapes, types = [], set()
    for shape in content["shapes"]:
        kind, name = str(shape.get("shape_type")), str(shape.get("label"))
        if kind not in _AREAS or name in _NO_CLASSES:
            what = f"called {name}" if name in _NO_CLASSES else f"of the type {kind}"
            counted[f"shapes {what} are left out"] += 1
            continue
        if kind == "rectangle":
            counted["rectangles are taken as masks"] += 1
        shapes.append(shape)
        types.add(kind)
        names[name] = None
    numbers = {name: number for number, name in enumerate(names)}
    with _refusing(file):
        detections = labelme.labelme_shapes_to_detections(
            shapes, numbers, (int(width), int(height)), with_masks=True
        )
    instances = _masks(detections, list(names), counted)
    split = named_split(path) or named_split(found)
    return _Picture(split, found, (int(height), int(width)), instances), "polygon" in types


def _read_voc(
    pascal_voc: Any, path: str, pictures: _Lookup, names: dict[str, None], counted: Counter[str]
) -> tuple[_Picture, bool] | None:
    file = os.path.join(pictures.folder, path)
    root = read_xml(file)
    if root.tag != "annotation":
        return None
    found = pictures.find(root.findtext("filename") or Path(path).name, path)
    height, width = picture_size(os.path.join(pictures.folder, found))
    with _refusing(file):
        shapes, classes = pascal_voc.detections_from_xml_obj(
            root, list(names), (width, height), force_masks=True
        )
    names.update(dict.fromkeys(classes))
    instances = _masks(shapes, list(names), counted)
    split = named_split(path) or named_split(found)
    return _Picture(split, found, (height, width), instances), bool(instances)


@contextmanager
def _refusing(file: str) -> Iterator[None]:
    """Turns what supervision raises about a file into one sentence."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"supervision cannot read {file} ({reason}); mend the file") from error


def _masks(shapes: Any, names: list[str], counted: Counter[str]) -> list[_Instance]:
    """Instances of supervision's detections, with masks [N, H, W], as run lengths."""
    instances = []
    masks = () if shapes.mask is None else shapes.mask
    for mask, number in zip(masks, shapes.class_id, strict=True):
        if not mask.any():
            counted["objects without a mask are left out"] += 1
            continue
        lengths = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        box = coco_mask.toBbox(lengths).tolist()
        lengths["counts"] = lengths["counts"].decode()
        instances.append(_Instance(names[number], lengths, float(mask.sum()), box))
    return instances


def _by_datumaro(
    found: Foreign, pictures: _Lookup, names: dict[str, None], counted: Counter[str]
) -> Iterator[_Picture]:
    program = os.environ.get(_DATUM) or shutil.which("datum")
    if program is None or shutil.which(program) is None:
        reason = f"{_DATUM} is {program!r}, which is no program" if program else "it is not found"
        raise _missing(found, reason)
    with tempfile.TemporaryDirectory() as scratch:
        for source, near in _sources(found, pictures, Path(scratch), counted):
            target = Path(scratch, "coco")
            _run(program, found.kind, source, target)
            for file in sorted(target.glob("annotations/instances_*.json")):
                subset = file.stem.removeprefix("instances_")
                content = json.loads(file.read_text(encoding="utf-8"))
                yield from _of_coco(content, subset, near, pictures, names, counted)
            shutil.rmtree(target, ignore_errors=True)


def _missing(found: Foreign, reason: str) -> InputError:
    package = str(found.kind.package)
    return InputError(
        f"{found.file} is {found.kind.name}, which the package {package} reads ({reason}): "
        f"{_INSTALL[package]}"
    )


def _sources(
    found: Foreign, pictures: _Lookup, scratch: Path, counted: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Folders for Datumaro, and the path below the folder of what lies in each."""
    if found.kind is not CVAT:
        yield pictures.folder, os.path.basename(found.file)
        return
    for number, path in enumerate(sorted(walk(pictures.folder, (".xml",)))):
        file = os.path.join(pictures.folder, path)
        root = read_xml(file)
        if root.tag != "annotations":
            continue
        for tag in _NO_AREAS:
            if number_of := len([*root.findall(f"image/{tag}"), *root.findall(f"track/{tag}")]):
                counted[f"shapes of the type {tag} are left out"] += number_of
        stage = scratch / str(number)
        stage.mkdir()
        for image in root.iter("image"):  # Datumaro wants them below images/, under these names
            name = image.get("name") or ""
            near = os.path.join(os.path.dirname(path), image.get("subset") or "", "x")
            link = stage / "images" / (image.get("subset") or "") / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.join(pictures.folder, pictures.find(name, near)))
        text = Path(file).read_text(encoding="utf-8")  # an export of a job differs in this alone
        text = re.sub(r"(<meta>\s*)<job>(.*)</job>", r"\1<task>\2</task>", text, flags=re.DOTALL)
        (stage / "default.xml").write_text(text, encoding="utf-8")
        yield str(stage), path


def _run(program: str, kind: Kind, source: str, target: Path) -> None:
    command = [program, "convert", "-i", source, "-if", kind.format, "-f", "coco_instances"]
    command += ["-o", str(target), "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (target / "annotations").is_dir():
        said = (done.stderr + done.stdout).strip()
        causes = _CAUSE.findall(said) or said.splitlines()[-1:] or ["it says nothing"]
        raise InputError(
            f"datumaro cannot read {source} as {kind.name} ({causes[0].strip()}); mend the files, "
            f"or convert them yourself: {' '.join(command)}"
        )


def _of_coco(
    content: dict[str, Any],
    subset: str,
    near: str,
    pictures: _Lookup,
    names: dict[str, None],
    counted: Counter[str],
) -> Iterator[_Picture]:
    """Pictures of a JSON that Datumaro wrote."""
    classes = {category["id"]: str(category["name"]) for category in content["categories"]}
    names.update(dict.fromkeys(classes.values()))
    instances = defaultdict(list)
    for entry in content["annotations"]:
        # Masks are no crowds, as Datumaro has them, and a track goes on where it is not seen.
        attributes = entry.get("attributes") or {}
        if attributes.get("outside"):
            continue
        if not entry.get("segmentation"):
            counted["objects without a mask are left out"] += 1
            continue
        instances[entry["image_id"]].append(
            _Instance(
                classes[entry["category_id"]], entry["segmentation"], entry["area"], entry["bbox"]
            )
        )
    folder = os.path.dirname(near)
    for entry in content["images"]:
        path = pictures.find(entry["file_name"], os.path.join(folder, subset, "x"))
        size = entry.get("height"), entry.get("width")
        height, width = size if all(size) else picture_size(os.path.join(pictures.folder, path))
        split = named_split(os.path.join(folder, subset, "x")) or named_split(path)
        yield _Picture(split, path, (height, width), instances[entry["id"]])


def _write(pictures: list[_Picture], names: list[str], target: str) -> list[Annotations]:
    """A JSON for each split."""
    numbers = {name: number for number, name in enumerate(names)}
    found = []
    os.makedirs(target, exist_ok=True)
    for split in dict.fromkeys(picture.split for picture in pictures):
        images, annotations = [], []
        for picture in pictures:
            if picture.split != split:
                continue
            height, width = picture.size
            image = {"id": len(images) + 1, "file_name": picture.path}
            images.append({**image, "height": height, "width": width})
            for each in picture.instances:
                entry = {"id": len(annotations) + 1, "image_id": image["id"], "iscrowd": 0}
                shape = {"segmentation": each.segmentation, "area": each.area, "bbox": each.box}
                annotations.append({**entry, "category_id": numbers[each.name], **shape})
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = os.path.join(target, f"instances_{split or 'all'}.json")
        with replacing(file) as stream:
            stream.write(json.dumps(content).encode())
        classes = [{"name": name, "id": n, "thing": True} for name, n in numbers.items()]
        found.append(Annotations(split or "all", file, ".", None, classes))
    return found
