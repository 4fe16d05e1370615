"""The JSON files of COCO's formats, checked entry by entry before a model is built.

Detectron2's loaders and the libraries behind the evaluators take what they find: a category that
nobody has listed ends as a KeyError after all inference, two pictures of one id as a wrong number.
A file is checked by the main process alone, and once: what was found is remembered in the user's
cache folder until the file changes.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data.catalog import Metadata
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..errors import InputError
from ..run.files import replacing
from . import entries as rules_of_entries
from .entries import Annotation, check_segmentation, check_segments
from .reading import naming

_logger = logging.getLogger(__name__)

Picture = Sequence[Any]
"""The two names of a picture in a JSON: its id, and its path without the suffix."""


def picture_id(given: Any) -> Any:
    """The id of a picture; a number where it is one, also as text: "000001" is 1."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


def path_below_root(metadata: Metadata, file_name: str) -> str:
    """The path of a picture below its data set's folder, without the suffix."""
    root = metadata.get("image_root") or metadata.get("image_dir") or ""
    path = Path(file_name)
    below = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return below.with_suffix("").as_posix()


def read_json(path: str, what: str = "JSON", encoding: str = "utf-8") -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        what: its noun in errors.
        encoding: ``utf-8-sig`` also takes a byte-order mark, which Detectron2's loaders do not.

    Raises:
        InputError: the file is missing, broken, or has a number that is not finite.
    """
    constants: list[str] = []

    def remember(constant: str) -> float:
        constants.append(constant)
        return float(constant)

    with naming(path, what), PathManager.open(path, "r", encoding=encoding) as file:
        content = json.load(file, parse_constant=remember)
    if constants:
        raise InputError(
            f"{what} {path} has {constants[0]}{_place_of_fault(content)}, which is no number; put "
            "a number there, or take the entry out"
        )
    return content


def _place_of_fault(content: Any) -> str:
    """Where in the tables of a JSON the first number stands that is not finite; or nothing."""
    tables = content.items() if isinstance(content, dict) else [("the file", content)]
    for key, entries in tables:
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if not _all_finite(entry):
                fields = entry.items() if isinstance(entry, dict) else ()
                known = [field for field in fields if field[0] in ("id", "image_id", "file_name")]
                named = ", ".join(f"{key} {value}" for key, value in known)
                return f" in entry {index} of {key}" + (f" ({named})" if named else "")
    return ""


def _all_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_all_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def used_categories(content: dict[str, Any]) -> Iterator[Any]:
    """The category of each annotation of a JSON, or of each segment of one."""
    for entry in content.get("annotations", ()):  # a test set has none
        for each in entry.get("segments_info", [entry]):
            if "category_id" in each:
                yield each["category_id"]


class InstanceFile(NamedTuple):
    """What a JSON of COCO's instances has."""

    classes: list[str]
    """Their names in the order of their ids, as Detectron2 numbers them."""
    learnt: int
    """The number of annotations that are no crowd."""
    pictures: list[Picture]


def check_instances(path: str) -> InstanceFile:
    """Checks a JSON of COCO's instances, which may lack annotations.

    Raises:
        InputError: with the file and the entry that training or evaluation would stumble over.
    """
    return InstanceFile(*_remembered(path, "instances", lambda: _check_instances(path)))


def check_panoptic(
    path: str,
    things: Collection[int],
    stuff: Collection[int] = (),
    ignored: Collection[int] = (),
) -> Sequence[Picture]:
    """Checks a panoptic JSON of COCO's format, and gives its pictures.

    Args:
        path: the file.
        things: the categories that the data set knows as things, by the ids in its files; none:
            the file alone decides.
        stuff: those that it knows as stuff; things may be among them.
        ignored: those that it leaves out, whichever they are.

    Raises:
        InputError: with the file and the entry that training or evaluation would stumble over.
    """
    known = sorted({*things, *stuff, *ignored})
    what = f"panoptic of things {sorted(things)} among {known}, without {sorted(ignored)}"
    return _remembered(path, what, lambda: _check_panoptic(path, known, things, ignored))


def _check_instances(path: str) -> InstanceFile:
    content = read_json(path, "COCO JSON")
    images = _by_id(path, content, "images")
    categories = _by_id(path, content, "categories")
    if not images or not categories:
        raise InputError(
            f"{path} lists no {'categories' if images else 'images'}; prepare it again"
        )
    for index, image in enumerate(images.values()):
        _require(image, {"file_name": str}, f"entry {index} of images in {path}")
        sides = [image.get("height"), image.get("width")]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise InputError(
                f"entry {index} of images in {path} has the height {sides[0]!r} and the width "
                f"{sides[1]!r}; give both in pixels"
            )
    for index, category in enumerate(categories.values()):
        _require(category, {"name": str}, f"entry {index} of categories in {path}")
    seen, learnt = set(), 0
    # A test set has no annotations.
    for index, entry in enumerate(_table(path, {"annotations": [], **content}, "annotations")):
        where = f"annotation {index} (id {entry.get('id')}) of {path}"
        _check_instance(where, entry, images, categories)
        learnt += not entry.get("iscrowd", 0)
        seen.add(entry["id"])
        if len(seen) == index:
            raise InputError(f"{where} has an id that another has, too; give each its own")
    pictures = [_names(image["id"], image["file_name"]) for image in images.values()]
    names = [categories[each]["name"] for each in sorted(categories)]
    return InstanceFile(names, learnt, pictures)


def _check_instance(
    where: str, entry: Annotation, images: dict[Any, Annotation], categories: dict[Any, Annotation]
) -> None:
    _require(entry, {"id": (int, str), "image_id": (int, str), "category_id": (int, str)}, where)
    for key, known in (("image_id", images), ("category_id", categories)):
        if entry[key] not in known:
            raise InputError(
                f"{where} has the {key} {entry[key]!r}, which is none of those listed, such as "
                f"{next(iter(known))!r}; write both alike, list it, or take the annotation out"
            )
    if entry.get("iscrowd", 0) not in (0, 1) or entry.get("ignore", 0) != 0:
        raise InputError(
            f"{where} has the iscrowd {entry.get('iscrowd', 0)!r} and the ignore "
            f"{entry.get('ignore', 0)!r}; iscrowd must be 0 or 1, ignore 0 or left out"
        )
    box = entry.get("bbox", [0, 0, 0, 0])
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise InputError(
            f"{where} has the bbox {box!r}, but x, y, width and height are expected; mend it, or "
            "leave it out"
        )
    if not _is_number(entry.get("area", 0)):
        raise InputError(f"{where} has the area {entry['area']!r}; give a number, or leave it out")
    image = images[entry["image_id"]]
    segmentation = entry.get("segmentation") or None
    if segmentation or not entry.get("iscrowd", 0):  # a crowd need not have a mask
        check_segmentation(where, segmentation, (image["height"], image["width"]))


def _check_panoptic(
    path: str, known: Collection[int], things: Collection[int], ignored: Collection[int]
) -> list[Picture]:
    content = read_json(path, "panoptic JSON")
    if not _table(path, content, "annotations"):
        raise InputError(f"{path} lists no pictures in annotations; prepare it again")
    categories = _by_id(path, content, "categories") if "categories" in content else {}
    for number, category in categories.items():
        if "isthing" in category and number in known and number not in ignored:
            said, expected = category["isthing"], number in things
            if said not in (0, 1) or bool(said) != expected:
                raise InputError(
                    f"category {number} of {path} has the isthing {said!r}, but the data set's "
                    f"metadata have it among the {'things' if expected else 'stuff'}; mend the one "
                    "or the other"
                )
    listed = set(categories) & set(known) if known and categories else set(categories or known)
    pictures: dict[str, set[Any]] = {"image_id": set(), "file_name": set()}
    for index, entry in enumerate(_table(path, content, "annotations")):
        where = f"annotation {index} ({entry.get('file_name')}) of {path}"
        fields = {"image_id": (int, str), "file_name": str, "segments_info": list}
        _require(entry, fields, where)
        for key, seen in pictures.items():
            value = picture_id(entry[key]) if key == "image_id" else entry[key]
            if value in seen:
                raise InputError(
                    f"{where} has the {key} {entry[key]!r}, which another has, too; pictures are "
                    "told apart by it: give each its own"
                )
            seen.add(value)
        if any(not isinstance(segment, dict) for segment in entry["segments_info"]):
            raise InputError(f"{where} has segments_info that are no maps of id and category_id")
        check_segments(where, entry["segments_info"], None)
        unknown = [s for s in entry["segments_info"] if s["category_id"] not in listed]
        if unknown:
            raise InputError(
                f"{where} has a segment {unknown[0]['id']} of the category_id "
                f"{unknown[0]['category_id']!r}, which the categories of the file or the metadata "
                "of the data set do not list; list it, or mend the segment"
            )
    return [_names(e["image_id"], e["file_name"]) for e in content["annotations"]]


def _names(identity: Any, file_name: str) -> Picture:
    return [picture_id(identity), os.path.splitext(file_name)[0]]


def _table(path: str, content: Any, key: str) -> list[Annotation]:
    """A list of maps."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        keys = ", ".join(content) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(
            f"{path} has no list of {key}, as COCO's formats have it, but {keys or 'nothing'}; "
            "give the JSON of the annotations"
        )
    return entries


def _by_id(path: str, content: Any, key: str) -> dict[Any, Annotation]:
    """The entries of a table by their ids, which must differ."""
    found: dict[Any, Annotation] = {}
    seen: set[Any] = set()
    for index, entry in enumerate(_table(path, content, key)):
        where = f"entry {index} of {key} in {path}"
        _require(entry, {"id": (int, str)}, where)
        if picture_id(entry["id"]) in seen:
            raise InputError(
                f"{where} has the id {entry['id']!r}, which another has, too; give each its own"
            )
        found[entry["id"]] = entry
        seen.add(picture_id(entry["id"]))
    if len({type(each) for each in found}) > 1:
        raise InputError(f"the ids of {key} in {path} are partly numbers, partly text; choose one")
    return found


def _require(entry: Annotation, fields: dict[str, Any], where: str) -> None:
    for key, kind in fields.items():
        if not isinstance(entry.get(key), kind):
            found = f"the {key} {entry[key]!r}" if key in entry else f"no {key}"
            raise InputError(f"{where} has {found}; mend it, or take the entry out")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def told_to_all(check: Callable[[], Any]) -> Any:
    """What a check finds in the main process, the only one that does it, in all processes.

    Raises:
        InputError: in all processes, if the check raises it.
    """
    found, refusal = None, ""
    if comm.is_main_process():
        try:
            found = check()
        except InputError as error:
            refusal = str(error)
    found, refusal = comm.all_gather((found, refusal))[0]
    if refusal:
        raise InputError(refusal)
    return found


def _remembered(path: str, what: str, check: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    """What a check of a file finds, or has found in the file as it is."""
    return told_to_all(lambda: _looked_up(path, what, check))


def _looked_up(path: str, what: str, check: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    with naming(path, "JSON"):
        file = os.path.realpath(PathManager.get_local_path(path))
        stamp = os.stat(file)
    # Another version of these rules is to look again.
    files = (__file__, rules_of_entries.__file__)
    rules = b"".join(Path(each).read_bytes() for each in files)
    key = repr((file, stamp.st_mtime_ns, stamp.st_size, what)).encode() + rules
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    memory = Path(folder, "mask_former", f"{hashlib.sha256(key).hexdigest()}.json")
    with contextlib.suppress(OSError, ValueError):
        return json.loads(memory.read_text(encoding="utf-8"))
    _logger.info("Checking the annotations of %s", path)
    found = check()
    with contextlib.suppress(OSError):  # without a place to remember it, the next run looks again
        memory.parent.mkdir(parents=True, exist_ok=True)
        with replacing(memory) as written:
            written.write(json.dumps(found).encode())
    return found
