"""What label files hold, and what its classes are called."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from PIL import Image

from ..data.pairing import walk
from ..data.preparing import as_they_come
from ..data.reading import naming, pack_color, rgb_to_id, unpack_color
from ..errors import InputError
from .foreign import read_xml

IGNORED_NAMES = ("void", "unlabeled", "unlabelled", "ignore", "ignored", "dontcare")
_MOST_COLORS = 256  # more, and a picture is no label map
_FEW_FILES = 64  # that are read about as fast as other processes start
_COLOR_LINE = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\S.*)")
_VOC = ("background", *CLASS_NAMES)
_OBJECT_INFO = ("objectinfo150", "objectinfo")  # of ADE20K
_NAMES = ("classes", "class_names", "labels", "names", "obj_names", "categories")


class Values(NamedTuple):
    """The values of all label files together."""

    pictures: Counter[int]
    """In how many files each value is; colours are packed numbers."""
    has_colors: bool
    palette: dict[int, tuple[int, int, int]]
    """The colours of a palette, where files have one."""


class Named(NamedTuple):
    """A class as a file of names has it."""

    name: str
    value: int
    """Packed where it is a colour."""


class Names(NamedTuple):
    """The content of a file of class names."""

    file: str
    classes: list[Named]
    has_colors: bool


def scan(files: list[str], colors: bool | None = None, workers: int | None = None) -> Values:
    """Reads all label files.

    Args:
        files: with one channel, a palette, or colours.
        colors: whether a palette counts by its colours; None: only files with three channels do.
        workers: processes; None: one for each CPU, or this one alone for few files.

    Raises:
        InputError: a file is broken, or holds more values than label maps have.
    """
    found = Values(Counter(), bool(colors), {})
    workers = workers or (1 if len(files) < _FEW_FILES else os.cpu_count() or 1)
    scanned = as_they_come(partial(_scan_one, colors), files, workers, "reading values")
    for file, (values, has_colors, palette) in zip(files, scanned, strict=True):
        if len(values) > _MOST_COLORS and has_colors:
            raise InputError(
                f"{file} has {len(values)} colours, so it is a photograph and no label map; take "
                "it away, or keep label maps in a folder called labels or masks"
            )
        found = found._replace(has_colors=found.has_colors or has_colors)
        found.pictures.update(values)
        found.palette.update(palette)
    return found


def _scan_one(
    colors: bool | None, file: str
) -> tuple[list[int], bool, dict[int, tuple[int, int, int]]]:
    with naming(file, "label map"), Image.open(file) as picture:
        by_color = picture.mode in ("RGB", "RGBA") or (picture.mode == "P" and bool(colors))
        palette = {} if by_color or picture.mode != "P" else _palette(picture)
        values = rgb_to_id(np.asarray(picture.convert("RGB"))) if by_color else np.asarray(picture)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise InputError(
            f"label map {file} has mode {picture.mode} of Pillow; give one channel of numbers, a "
            "palette or RGB"
        )
    values = values.astype(np.int64)
    edges = np.ones(values.shape, bool)  # sorting every pixel would take ten times as long
    edges[:, 1:] = values[:, 1:] != values[:, :-1]
    return np.unique(values[edges]).tolist(), by_color, palette


def _palette(picture: Image.Image) -> dict[int, tuple[int, int, int]]:
    numbers = picture.getpalette("RGB") or []
    colors = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return {i: color for i, color in enumerate(colors) if i == 0 or any(color)}


def find_names(folder: str, file: str | None = None) -> Names | None:
    """Class names, from the first file that has any.

    Known are ``labelmap.txt`` of CVAT and VOC (``name:r,g,b::``), lines of a colour and a name,
    CSV files with a column of names and columns of colours or of a value, text files with a name a
    line, JSON files of names by number, and ADE20K's ``objectInfo150.txt``.

    Args:
        folder: searched with its folders.
        file: the one file to read instead.

    Raises:
        InputError: the one file has no names.
    """
    paths = [file] if file is not None else _candidates(folder)
    for path in paths:
        if (names := _read_names(path)) is not None:
            return names
    if file is not None:
        raise InputError(
            f"{file} has no class names; give a name a line, `name:r,g,b` a line, a CSV with the "
            "columns name and r, g, b or value, or a JSON of names by number"
        )
    return None


def _candidates(folder: str) -> list[str]:
    found = sorted(walk(folder, (".txt", ".csv", ".json")), key=lambda p: (p.count(os.sep), p))
    stems = {path: os.path.splitext(os.path.basename(path))[0].lower().strip("_") for path in found}
    words = (
        *_NAMES,
        *_OBJECT_INFO,
        "labelmap",
        "label_map",
        "label_colors",
        "class_dict",
        "id2label",
    )
    return [os.path.join(folder, path) for path, stem in stems.items() if stem in words]


def _read_names(path: str) -> Names | None:
    with naming(path, "file of class names"), open(path, encoding="utf-8-sig") as file:
        if path.lower().endswith(".json"):
            return _json_names(path, json.load(file))
        lines = [line.strip() for line in file]
        if path.lower().endswith(".csv") or _is_object_info(path):
            tab = "\t" if lines and "\t" in lines[0] else ","
            rows = list(csv.DictReader(lines, skipinitialspace=True, delimiter=tab))
            return _object_info(path, rows) if _is_object_info(path) else _csv_names(path, rows)
    lines = [line for line in lines if line and not line.startswith("#")]
    parsed = [_parse_line(line) for line in lines]
    if parsed and all(parsed):
        return Names(path, [each for each in parsed if each], True)
    return Names(path, [Named(name, i) for i, name in enumerate(lines)], False) if lines else None


def _parse_line(line: str) -> Named | None:
    """``name:r,g,b:parts:actions``, or ``r g b name``."""
    name, _, rest = line.partition(":")
    if match := re.match(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)", rest):
        return _colored(name.strip(), match.groups())
    if match := _COLOR_LINE.fullmatch(line):
        return _colored(match[4].strip(), match.groups()[:3])
    return None


def _colored(name: str, parts: Iterable[Any]) -> Named | None:
    red, green, blue = (int(part) for part in parts)
    return Named(name, pack_color((red, green, blue))) if max(red, green, blue) < 256 else None


def _csv_names(path: str, rows: list[dict[str, str]]) -> Names | None:
    rows = [{str(k).strip().lower(): str(v).strip() for k, v in row.items()} for row in rows]
    columns = rows[0] if rows else {}
    name = next((c for c in ("name", "class", "label", "class_name") if c in columns), None)
    value = next((c for c in ("value", "pixel value", "id", "index") if c in columns), None)
    if name is None:
        return None
    with naming(path, "file of class names"):
        if {"r", "g", "b"} <= set(columns):
            found = [_colored(row[name], (row["r"], row["g"], row["b"])) for row in rows]
            return Names(path, [each for each in found if each], True)
        numbers = enumerate(rows) if value is None else ((int(row[value]), row) for row in rows)
        return Names(path, [Named(row[name], number) for number, row in numbers], False)


def _is_object_info(path: str) -> bool:
    return os.path.splitext(os.path.basename(path))[0].lower() in _OBJECT_INFO


def _object_info(path: str, rows: list[dict[str, str]]) -> Names:
    """ADE20K's table: the number, and names of one meaning; 0 is what has no name there."""
    with naming(path, "file of class names"):
        named = {int(row["Idx"]): row["Name"].split(",")[0].split(";")[0].strip() for row in rows}
    return Names(path, [Named(name, i) for i, name in {0: "void", **named}.items()], False)


def published_names(files: Sequence[str], values: Values) -> Names | None:
    """Class names of Cityscapes and Pascal VOC, whose label files are unmistakable.

    Args:
        files: all label files.
        values: of all label files.
    """
    stems = [os.path.splitext(file)[0] for file in files]
    for ending, key in (("_labelIds", "id"), ("_labelTrainIds", "trainId")):
        if all(
            stem.endswith(f"_gtFine{ending}") or stem.endswith(f"_gtCoarse{ending}")
            for stem in stems
        ):
            named = {entry[key]: entry["name"] for entry in CITYSCAPES_CATEGORIES}
            void = dict.fromkeys([*range(34), 255] if key == "id" else [255], "void")
            return _published("Cityscapes", {**void, **named})
    numbers = {*range(len(_VOC)), 255}
    is_voc = all(os.path.basename(os.path.dirname(file)) == "SegmentationClass" for file in files)
    has_palette = values.palette.get(15) == (192, 128, 128)
    if is_voc and has_palette and numbers >= set(values.pictures) and _has_voc_objects(files[0]):
        return _published("Pascal VOC", {255: "void", **dict(enumerate(_VOC))})
    return None


def _published(name: str, named: dict[int, str]) -> Names:
    return Names(name, [Named(n, v) for v, n in sorted(named.items())], False)


def _has_voc_objects(file: str) -> bool:
    """Whether the boxes beside a label map have VOC's names: others use its folders, too."""
    stem = os.path.splitext(os.path.basename(file))[0]
    boxes = os.path.join(os.path.dirname(file), "..", "Annotations", f"{stem}.xml")
    if not os.path.isfile(boxes):
        return False
    objects = {str(each.findtext("name")) for each in read_xml(boxes).iter("object")}
    return bool(objects) and objects <= set(_VOC)


def _json_names(path: str, content: Any) -> Names | None:
    if isinstance(content, list):
        content = dict(enumerate(content))
    if not isinstance(content, dict) or not content:
        return None
    if not all(str(key).isdigit() and isinstance(name, str) for key, name in content.items()):
        return None
    return Names(path, [Named(name, int(key)) for key, name in content.items()], False)


class Classes(NamedTuple):
    """Part of a description, and what must be said about it."""

    classes: list[dict[str, Any]]
    ignore: list[Any]
    encoding: str
    notes: list[str]


def name_classes(values: Values, names: Names | None, ignore: Iterable[int] = ()) -> Classes:
    """Classes from the values of label files and the names that were found.

    Args:
        values: of all label files.
        names: of classes, or None.
        ignore: values that nobody is trained on, said by the user.
    """
    found, ignored, notes = sorted(values.pictures), set(ignore), []
    if unknown := ignored - set(found):
        raise InputError(f"no label map has the value {min(unknown)} that is to be ignored")
    named = {entry.value: entry.name for entry in names.classes} if names else {}
    known = values.has_colors == bool(names and names.has_colors)
    if names is not None and not known:
        notes.append(f"{names.file} is left out: it does not fit the label files")
        named = {}
    void = {v for v, name in named.items() if name.lower() in IGNORED_NAMES}
    if not named and not values.has_colors and not ignored:
        highest = found[-1] if len(found) > 2 else 0
        void |= {highest} & {255, 65535}
    ignored |= void
    if ignored:
        notes.append(f"nobody is trained on {_said(ignored, named, values)}")
    if not named and not values.has_colors and found in ([0, 255], [0, 1]):
        notes.append(
            f"label maps are binary: 0 is the class background and {found[1]} the class "
            "foreground; both are supervised, and no pixel is void"
        )
        named = {0: "background", found[1]: "foreground"}
    if not named:
        notes.append("no class names were found: write them in the description, instead of class_0")
    listed = dict.fromkeys([*named, *found])
    classes = [
        _entry(v, i, named, values) for i, v in enumerate(v for v in listed if v not in ignored)
    ]
    if nameless := [v for v in found if named and v not in named and v not in ignored]:
        notes.append(f"{_said(set(nameless), {}, values)} have no name: called by their number")
    entries: list[Any] = sorted(ignored)
    if values.has_colors:
        entries = [unpack_color(value) for value in entries]
    return Classes(classes, entries, "colors" if values.has_colors else "ids", notes)


def _entry(value: int, index: int, named: dict[int, str], values: Values) -> dict[str, Any]:
    number = index if values.has_colors else value
    entry: dict[str, Any] = {"name": named.get(value, f"class_{number}")}
    if values.has_colors:
        return {**entry, "color": unpack_color(value)}
    if value in values.palette:
        entry["color"] = list(values.palette[value])
    return {**entry, "values": [value]} if value != index else entry


def _said(found: set[int], named: dict[int, str], values: Values) -> str:
    shown = [unpack_color(v) if values.has_colors else v for v in sorted(found)]
    names = [
        f"{v} ({named[n]})" if n in named else str(v)
        for v, n in zip(shown, sorted(found), strict=True)
    ]
    return ("colours " if values.has_colors else "values ") + ", ".join(names)
