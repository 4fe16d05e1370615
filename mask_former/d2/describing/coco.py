"""Annotations in JSON: COCO's instances and panoptic segments, and YOLO's polygons made such."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..data.pairing import PICTURE_EXTENSIONS, walk
from ..data.reading import naming, picture_size
from ..errors import InputError
from ..run.files import replacing

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


def find_annotations(folder: str) -> list[Annotations]:
    """The JSON files of a folder that have COCO's keys.

    Panoptic ones alone if there are any; those of keypoints, which repeat the people of others,
    only if there are no others.

    Raises:
        InputError: the pictures or PNGs of one lie nowhere in the folder.
    """
    files: dict[str, list[str]] = {}
    found: list[Annotations] = []
    with_keypoints: list[Annotations] = []
    for path in sorted(walk(folder, (".json",))):
        with naming(os.path.join(folder, path), "JSON"):
            content = json.loads(Path(folder, path).read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict) or not {"annotations", "categories"} <= content.keys():
            continue
        files = files or _folders_by_name(folder)
        with naming(os.path.join(folder, path), "JSON"):
            annotations = _annotations(folder, path, content, files)
            has_keypoints = any("keypoints" in category for category in content["categories"])
        if annotations is not None:
            (with_keypoints if has_keypoints else found).append(annotations)
    panoptic = [each for each in found if each.panoptic is not None]
    return panoptic or found or with_keypoints


def _annotations(
    folder: str, path: str, content: dict[str, Any], files: dict[str, list[str]]
) -> Annotations | None:
    entries = content["annotations"]
    if not entries or not content.get("images"):
        return None
    match = _SPLIT.search(Path(path).stem) or _SPLIT.search(path)
    split = match[0].lower() if match else Path(path).stem
    images = _folder_of(folder, path, content["images"][0]["file_name"], split, files)
    classes = content["categories"]
    if "segments_info" in entries[0]:
        png = _folder_of(folder, path, entries[0]["file_name"], "panoptic", files)
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
    folder: str, path: str, file_name: str, hint: str, files: dict[str, list[str]]
) -> str:
    """The folder below which a file of the JSON lies; where several do, the one like the hint."""
    below = os.path.dirname(file_name)
    possible = [
        parent[: len(parent) - len(below)].rstrip("/") or "."
        for parent in files.get(os.path.basename(file_name), ())
        if parent.endswith(below)
    ]
    if not possible:
        raise InputError(
            f"{os.path.join(folder, path)} names {file_name}, which lies nowhere in {folder}; put "
            "the pictures there"
        )
    return min(possible, key=lambda each: (hint not in each.lower(), each))


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
