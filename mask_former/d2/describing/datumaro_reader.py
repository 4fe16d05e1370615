"""CVAT's XML, and what else Datumaro reads: its program runs in an environment of its own."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ElementTree

import numpy as np
from pycocotools import mask as coco_mask

from ..data.pairing import walk
from ..data.reading import picture_size
from ..errors import InputError
from .folders import named_split
from .foreign import CVAT, Foreign, Kind, read_xml
from .gathering import DATUM, Gathering, Instance, Picture, missing
from .values import IGNORED_NAMES

_CAUSE = re.compile(r"^[\w.]*(?:Error|Exception|Exit)\b.*", re.MULTILINE)
# CVAT's shapes that are no areas; Datumaro leaves them out without a word.
_NO_AREAS = ("points", "polyline", "ellipse", "cuboid", "skeleton", "tag")


def gather(found: Foreign, into: Gathering) -> None:
    """Has Datumaro write the folder as COCO's instances, and reads them.

    Raises:
        InputError: Datumaro is missing, or refuses the folder.
    """
    program = os.environ.get(DATUM) or shutil.which("datum")
    if program is None or shutil.which(os.path.expanduser(program)) is None:
        reason = f"{DATUM} is {program!r}, which is no program" if program else "it is not found"
        raise missing(found, reason)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "coco")
        for source, folder in _sources(found.kind, Path(scratch), into):
            _run(os.path.expanduser(program), found.kind, source, target)
            for file in sorted(target.glob("annotations/instances_*.json")):
                near = os.path.join(folder, file.stem.removeprefix("instances_"), "")
                _read(json.loads(file.read_text(encoding="utf-8")), near, into)
            shutil.rmtree(target)


def _sources(kind: Kind, scratch: Path, into: Gathering) -> Iterator[tuple[str, str]]:
    """Folders for Datumaro, and below which folder of ours the annotations of each lie."""
    if kind.format != CVAT.format:
        yield into.folder, ""
        return
    for path in sorted(walk(into.folder, (".xml",))):
        root = read_xml(os.path.join(into.folder, path))
        if root.tag != "annotations":
            continue
        for tag in _NO_AREAS:
            if number := len([*root.findall(f"image/{tag}"), *root.findall(f"track/{tag}")]):
                into.counted[f"shapes of the type {tag} are left out"] += number
        for subset, part in _subsets(root).items():
            folder = os.path.join(os.path.dirname(path), subset)
            yield _stage(part, folder, Path(tempfile.mkdtemp(dir=scratch)), into), folder


def _subsets(root: Element) -> dict[str, Element]:
    """The parts of a project of CVAT, each as if it were a task, as a job is made, too.

    Datumaro refuses a job, and reads a subset as often as tasks have it.
    """
    for meta in root.findall("meta/job") + root.findall("meta/project"):
        meta.tag = "task"
    frame = [each for each in root if each.tag not in ("image", "track")]
    parts: dict[str, Element] = {}
    for each in root:
        if each.tag in ("image", "track"):
            subset = each.attrib.pop("subset", None) or ""
            if subset not in parts:
                parts[subset] = Element(root.tag)
                parts[subset].extend(frame)
            parts[subset].append(each)
    return parts


def _stage(root: Element, folder: str, stage: Path, into: Gathering) -> str:
    """A folder with a file of CVAT and its pictures, below ``images`` as Datumaro wants them."""
    (stage / "images").mkdir()
    for image in root.iter("image"):
        name = image.get("name") or ""
        picture = into.find(name, os.path.join(folder, ""))
        link = stage / "images" / name
        if ".." in link.parts or not link.is_relative_to(stage):
            raise InputError(f"CVAT's XML in {folder or '.'} names {name}, which is no picture's")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.join(into.folder, picture))
    ElementTree(root).write(stage / "default.xml", encoding="utf-8")
    return str(stage)


def _run(program: str, kind: Kind, source: str, target: Path) -> None:
    command = [program, "convert", "-i", source, "-if", kind.format, "-f", "coco_instances"]
    options = ["-o", str(target), "--overwrite"]
    ours = ("PYTHONPATH", "PYTHONHOME")  # its packages are others
    env = {key: value for key, value in os.environ.items() if key not in ours}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, env=env
    )
    if done.returncode or not (target / "annotations").is_dir():
        said = (done.stderr + done.stdout).strip()
        causes = _CAUSE.findall(said) or said.splitlines()[-1:] or ["it says nothing"]
        raise InputError(
            f"datumaro cannot read {source} as {kind.name} ({causes[0].strip()}); mend the files, "
            f"or convert them yourself, with `{' '.join(command)} -o DIR -- --save-media`"
        )


def _read(content: dict[str, Any], near: str, into: Gathering) -> None:
    """Reads a JSON that Datumaro wrote."""
    classes = {category["id"]: str(category["name"]) for category in content["categories"]}
    into.names.update(dict.fromkeys(classes.values()))
    instances = defaultdict(list)
    for entry in content["annotations"]:
        name, shape = classes[entry["category_id"]], entry.get("segmentation")
        if (entry.get("attributes") or {}).get("outside"):  # of the picture: a track goes on
            continue
        if not shape or name in IGNORED_NAMES:
            what = f"called {name}" if shape else "without a mask"
            into.counted[f"objects {what} are left out"] += 1
            continue
        # Datumaro calls masks crowds, and its boxes may be those of another part of a group.
        instances[entry["image_id"]].append(Instance(name, shape, entry["area"], _box(shape)))
    for entry in content["images"]:
        path = into.find(entry["file_name"], near)
        size = entry.get("height"), entry.get("width")
        height, width = size if all(size) else picture_size(os.path.join(into.folder, path))
        split = named_split(near) or named_split(path)
        into.pictures.append(Picture(split, path, (height, width), instances[entry["id"]]))


def _box(segmentation: Any) -> list[float]:
    """Left, top, width and height of polygons or run lengths."""
    if isinstance(segmentation, dict):
        return coco_mask.toBbox(coco_mask.frPyObjects(segmentation, *segmentation["size"])).tolist()
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]
