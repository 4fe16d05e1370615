"""Annotations in JSON: COCO's instances and panoptic segments, and YOLO's polygons made such."""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..data.pairing import PICTURE_EXTENSIONS, walk
from ..data.reading import naming, picture_size
from ..errors import InputError
from ..run.files import replacing
from .folders import named_role

_YOLO_KEYS = (b"names", b"train")
_SPLIT = re.compile(r"train|val|test|dev", re.IGNORECASE)


class Annotations(NamedTuple):
    """A JSON of annotations and where its files lie."""

    split: str
    json: str
    """Below the folder, as the others."""
    images: str
    panoptic: str | None
    """The folder of PNGs; None: the JSON has instances."""
    classes: list[dict[str, Any]]


def find_annotations(folder: str) -> tuple[list[Annotations], list[str]]:
    """The JSON files of a folder that have COCO's keys, and notes about those that are left out.

    Panoptic ones alone if there are any; those of keypoints, which repeat the people of others,
    only if there are no others.

    Raises:
        InputError: the pictures or PNGs of one lie nowhere in the folder, or it lacks a table.
    """
    files: dict[str, list[str]] = {}
    found: list[Annotations] = []
    with_keypoints: list[Annotations] = []
    notes: list[str] = []
    for path in sorted(walk(folder, (".json",))):
        file = os.path.join(folder, path)
        with naming(file, "JSON"):
            content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict) or "annotations" not in content:
            continue
        if lacking := [key for key in ("images", "categories") if not content.get(key)]:
            if _has_masks(content["annotations"]):  # PNGs would pass for semantic label maps
                raise InputError(
                    f"{file} has annotations, but no {' and no '.join(lacking)}, as COCO's formats "
                    "have; add what is missing, or take the file away"
                )
            continue
        if not content["annotations"]:
            notes.append(f"{path} has no annotations and is left out")
            continue
        files = files or _folders_by_name(folder)
        with naming(file, "JSON"):
            annotations = _annotations(folder, path, content, files)
            has_keypoints = any("keypoints" in category for category in content["categories"])
        (with_keypoints if has_keypoints else found).append(annotations)
    panoptic = [each for each in found if each.panoptic is not None]
    return panoptic or found or with_keypoints, notes


def _has_masks(entries: Any) -> bool:
    entry = entries[0] if isinstance(entries, list) and entries else None
    return isinstance(entry, dict) and not {"segments_info", "segmentation"}.isdisjoint(entry)


def _annotations(
    folder: str, path: str, content: dict[str, Any], files: dict[str, list[str]]
) -> Annotations:
    entries = content["annotations"]
    match = _SPLIT.search(Path(path).stem) or _SPLIT.search(path)
    split = match[0].lower() if match else Path(path).stem
    names = [image["file_name"] for image in content["images"]]
    images = _folder_of(folder, path, names, split, files)
    classes = content["categories"]
    if "segments_info" in entries[0]:
        names = [entry["file_name"] for entry in entries]
        png = _folder_of(folder, path, names, split, files, of_labels=True)
        return Annotations(split, path, images, png, _classes(classes, things=False))
    if any("segmentation" in entry for entry in entries):
        return Annotations(split, path, images, None, _classes(classes, things=True))
    raise InputError(
        f"{os.path.join(folder, path)} has boxes and no masks; a model of masks cannot learn from "
        "them: give annotations with `segmentation`"
    )


def _classes(categories: list[dict[str, Any]], things: bool) -> list[dict[str, Any]]:
    classes = []
    for category in categories:
        entry = {"name": category["name"], "id": category["id"]}
        if "color" in category:
            entry["color"] = category["color"]
        if things or category.get("isthing"):
            entry["thing"] = True
        classes.append(entry)
    return classes


def _folders_by_name(folder: str) -> dict[str, list[str]]:
    """The folders that hold a picture of each name."""
    found = defaultdict(list)
    for path in walk(folder, PICTURE_EXTENSIONS):
        found[os.path.basename(path)].append(os.path.dirname(path))
    return found


def _folder_of(
    folder: str,
    path: str,
    names: list[str],
    split: str,
    files: dict[str, list[str]],
    of_labels: bool = False,
) -> str:
    """The folder below which the files of a JSON lie.

    Where several have files of these names, as 1.png is in each split, it is the one whose path
    says so, and then the one that lacks the fewest.
    """
    have = Counter(each for name in names for each in set(_folders_with(name, files)))
    if not have:
        raise InputError(
            f"{os.path.join(folder, path)} names {names[0]}, which lies nowhere in {folder}; put "
            "the pictures there"
        )

    def rank(each: str) -> tuple[bool, bool, int, str]:
        says_labels = "panoptic" in each.lower() or named_role(f"{each}/") == "labels"
        return says_labels != of_labels, split not in each.lower(), -have[each], each

    return min(have, key=rank)


def _folders_with(name: str, files: dict[str, list[str]]) -> list[str]:
    """The folders below which a file of that name lies; the name may begin with folders."""
    below = os.path.dirname(name)
    return [
        parent[: len(parent) - len(below)].rstrip("/") or "."
        for parent in files.get(os.path.basename(name), ())
        if parent.endswith(below)
    ]


def convert_yolo(folder: str, output: str) -> tuple[list[Annotations], str] | None:
    """YOLO's polygons as COCO's instances, in files below ``output``.

    Returns:
        Annotations with absolute paths of JSON files, and the file that names the classes; None if
        the folder has no such file.

    Raises:
        InputError: a line is no polygon, or a class has no name.
    """
    for path in sorted(walk(folder, (".yaml", ".yml"))):
        file = os.path.join(folder, path)
        with naming(file, "YAML"):
            text = Path(file).read_bytes()
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            if not all(re.search(rb"^%s\s*:" % key, text, re.MULTILINE) for key in _YOLO_KEYS):
                continue  # of another program, with tags or documents of its own
            reason = " ".join(str(error).split())
            raise InputError(f"YAML {file} cannot be read ({reason}); mend the file") from error
        if isinstance(content, dict) and "names" in content and "train" in content:
            return list(_yolo_splits(file, content, output)), file
    return None


def _yolo_splits(file: str, content: dict[str, Any], output: str) -> Iterator[Annotations]:
    names = content["names"]
    names = dict(enumerate(names)) if isinstance(names, list) else dict(names)
    root = os.path.join(os.path.dirname(file), str(content.get("path") or ""))
    root = root if os.path.isdir(root) else os.path.dirname(file)
    for split in ("train", "val", "test"):
        images = content.get(split)
        if not images:
            continue
        found = os.path.normpath(os.path.join(root, str(images).removeprefix("../")))
        if not os.path.isdir(found):
            raise InputError(f"{file}: {split} is {images!r}, and {found} is no folder")
        target = Path(output, "annotations", f"instances_{split}.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file_of_json:
            file_of_json.write(json.dumps(_yolo_content(found, names)).encode())
        classes = [{"name": str(n), "id": i, "thing": True} for i, n in names.items()]
        yield Annotations(split, str(target), found, None, classes)


def _yolo_content(images: str, names: dict[int, Any]) -> dict[str, Any]:
    """Content in COCO's format; a picture without a file of labels has no instances."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    labels = re.sub(r"(.*)images", r"\1labels", images)
    for number, path in enumerate(sorted(walk(images, PICTURE_EXTENSIONS)), 1):
        height, width = picture_size(os.path.join(images, path))
        entries.append({"id": number, "file_name": path, "width": width, "height": height})
        text = Path(labels, os.path.splitext(path)[0] + ".txt")
        with naming(str(text), "label file"):
            lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
        for line in lines:
            annotation = _yolo_annotation(f"{text}: {line[:60]!r}", line, names, width, height)
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    categories = [{"id": i, "name": str(name)} for i, name in names.items()]
    return {"images": entries, "annotations": annotations, "categories": categories}


def _yolo_annotation(
    where: str, line: str, names: dict[int, Any], width: int, height: int
) -> dict[str, Any]:
    with_class = line.split()
    try:
        category, numbers = int(float(with_class[0])), [float(word) for word in with_class[1:]]
    except (ValueError, IndexError) as error:
        raise InputError(f"{where} is no line of a class and numbers") from error
    if len(numbers) < 6 or len(numbers) % 2:
        raise InputError(
            f"{where} has {len(numbers)} numbers after the class, but a polygon has at least three "
            "pairs x, y; a box alone is no mask"
        )
    if category not in names:
        raise InputError(f"{where} has the class {category}, which `names` does not list")
    if not all(-0.01 <= number <= 1.01 for number in numbers):
        raise InputError(f"{where} has numbers that are not shares of width and height, 0 to 1")
    xs = [min(max(x, 0.0), 1.0) * width for x in numbers[::2]]
    ys = [min(max(y, 0.0), 1.0) * height for y in numbers[1::2]]
    polygon = [coordinate for point in zip(xs, ys, strict=True) for coordinate in point]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    area = abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2
    return {
        "category_id": category,
        "segmentation": [polygon],
        "bbox": box,
        "area": area,
        "iscrowd": 0,
    }
