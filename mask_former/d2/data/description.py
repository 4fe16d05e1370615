"""The description of a data set: one YAML file that names its classes and where its files lie.

It is read and compared with itself here; :mod:`.datasets` registers its splits and meets the files.

A description::

    name: street
    task: semantic                  # or panoptic, instance
    classes: [road, sky, {name: car, color: [0, 0, 142], thing: true, values: [13, 14]}]
    ignore: [255]                   # values that nobody is trained on
    splits:
      train: {images: images/train, labels: labels/train}
      val: {images: images/val, labels: labels/val}

docs/DATASETS.md explains every key.
"""

import os
import re
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

from ..configuring.yaml_reading import read_yaml
from ..errors import InputError, did_you_mean
from .json_files import read_json
from .reading import LabelValues, pack_color, unpack_color

TASKS = ("semantic", "panoptic", "instance")
_KEYS = ("name", "task", "root", "classes", "ignore", "ignore_label", "background", "encoding")
_CLASS_KEYS = ("name", "id", "values", "color", "thing")
_SPLIT_PATHS = ("images", "labels", "panoptic", "json", "list")
_SPLIT_KEYS = ("name", *_SPLIT_PATHS, "image_suffix", "label_suffix")
_OF_FOLDERS = ("list", "image_suffix", "label_suffix")  # a JSON names its files itself
_NEEDED = {"panoptic": ("panoptic", "json"), "instance": ("json",), "semantic": ()}
_USED = {
    "semantic": ("labels",),
    "panoptic": ("labels", "panoptic", "json"),
    "instance": ("json",),
}
_TRAINING = ("train", "training")
_ROOT_VARIABLE = "$DETECTRON2_DATASETS"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_BYTE, _WORD = 255, 65535  # the highest values of 8 and of 16 bits


class Class(NamedTuple):
    """A class; its index in the description is its contiguous id."""

    name: str
    id: int
    """Its id in results, and in the JSON of panoptic and instance data."""
    values: tuple[int, ...]
    """What label files, or the ``category_id`` of a JSON, hold for it; of colours, see
    :func:`mask_former.d2.data.reading.pack_color`."""
    color: tuple[int, int, int] | None
    is_thing: bool


class Split(NamedTuple):
    """A part of a data set, with paths as they are written."""

    name: str
    """Under which it is registered."""
    images: str
    labels: str | None
    """The folder of label maps."""
    panoptic: str | None
    """The folder of panoptic PNGs."""
    json: str | None
    """The annotations of panoptic or instance data."""
    list: str | None
    """A text file: one image a line, below ``images``; after a tab, its label map, below
    ``labels``."""
    image_suffix: str
    label_suffix: str

    @property
    def is_labelled(self) -> bool:
        """Whether it can be trained and evaluated on."""
        return bool(self.labels or self.panoptic or self.json)


class Description(NamedTuple):
    """A data set as its file describes it."""

    file: str
    name: str
    task: str
    classes: tuple[Class, ...]
    ignore: tuple[int, ...]
    ignore_label: int
    """The label, in memory, of pixels that nobody is trained on."""
    ignores_rest: bool
    """Whether values that are not listed are ignored; else they are refused, or a class."""
    rest: int | None
    """The class of values that are not listed."""
    has_colors: bool
    """Whether label files hold the colours of classes instead of numbers."""
    root: str | None
    splits: tuple[Split, ...]

    @property
    def training(self) -> Split:
        """The split to train on: by the last word of its name, or the first with labels."""
        labelled = [split for split in self.splits if split.is_labelled] or self.splits
        last_words = [re.split(r"[\W_]", split.name)[-1] for split in labelled]
        named = [s for s, word in zip(labelled, last_words, strict=True) if word in _TRAINING]
        return (named or labelled)[0]

    def path(self, written: str) -> str:
        """A path as it is now: below ``root``, or beside the description."""
        folder = os.path.dirname(self.file)
        if self.root is not None:
            folder = os.path.join(folder, os.path.expanduser(self.root))
            if self.root.startswith(_ROOT_VARIABLE):
                below = self.root.removeprefix(_ROOT_VARIABLE).lstrip("/")
                folder = os.path.join(datasets_root(), below)
        return os.path.join(folder, os.path.expanduser(written))

    def label_values(self) -> LabelValues | None:
        """How values of label files become labels; None where they are labels already."""
        classes = self._values()
        ignored = dict.fromkeys(self.ignore, self.ignore_label)
        rest = self.ignore_label if self.ignores_rest else self.rest
        table = {**classes, **ignored}
        are_labels = table == {i: i for i in (*range(len(self.classes)), self.ignore_label)}
        if are_labels and rest is None and not self.has_colors:
            return None
        return LabelValues(tuple(table.items()), rest, self.has_colors)

    def categories(self) -> dict[int, int | None]:
        """The class of each ``category_id`` of a JSON; None where it is ignored."""
        return {**dict.fromkeys(self.ignore), **self._values()}

    def _values(self) -> dict[int, int]:
        return {value: i for i, entry in enumerate(self.classes) for value in entry.values}


def datasets_root() -> str:
    """The folder that ``DETECTRON2_DATASETS`` names now."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def read_description(file: str) -> Description:
    """Reads a description and compares it with itself; of the data, no file is read.

    Args:
        file: YAML.

    Raises:
        InputError: the file is missing or broken, has unknown keys, or contradicts itself.
    """
    content = read_yaml(file, "description of a data set").content
    _check_keys(file, "the description", content, (*_KEYS, "splits"))
    for key in ("name", "classes", "splits"):
        if not content.get(key):
            raise InputError(f"{file} has no {key}; a description needs name, classes and splits")
    name, task = content["name"], content.get("task", "semantic")
    _check_name(file, "name", name)
    _check_choice(file, "task", task, TASKS)
    has_colors = content.get("encoding", "ids") == "colors"
    _check_choice(file, "encoding", content.get("encoding", "ids"), ("ids", "colors"))
    background = content.get("background")
    _check_choice(file, "background", background, (None, "class", "ignore"))
    classes = _read_classes(file, content["classes"], has_colors)
    if background == "class":
        if task != "semantic":
            raise InputError(f"{file}: `background: class` is for semantic data; give ignore")
        free_id = max((entry.id for entry in classes), default=-1) + 1
        classes += (Class("background", free_id, (), None, False),)
    description = Description(
        file,
        name,
        task,
        classes,
        _read_values(file, "ignore", content.get("ignore", []), has_colors),
        _read_ignore_label(file, content.get("ignore_label"), len(classes)),
        ignores_rest=background == "ignore",
        rest=len(classes) - 1 if background == "class" else None,
        has_colors=has_colors,
        root=_read_root(file, content.get("root")),
        splits=tuple(_read_splits(file, name, task, content["splits"])),
    )
    _check_unambiguous(description)
    return description


def _check_keys(file: str, where: str, content: Any, known: Collection[str]) -> None:
    if not isinstance(content, dict):
        raise InputError(f"{file}: {where} is {content!r}; give a map of {', '.join(known)}")
    for key in content:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; known are {', '.join(known)}"
            raise InputError(f"{file}: {where} has the unknown key {key!r}{hint}")


def _check_name(file: str, key: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{file}: {key} is {name!r}; give a text of letters, digits, _, - and ., which begins "
            "with a letter or a digit"
        )


def _check_choice(file: str, key: str, value: Any, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        known = " or ".join(str(choice) for choice in choices if choice)
        raise InputError(f"{file}: {key} is {value!r}; give {known}")


def _read_ignore_label(file: str, label: Any, num_classes: int) -> int:
    default = _BYTE if num_classes <= _BYTE else _WORD
    label = default if label is None else label
    if type(label) is not int or not num_classes <= label <= _WORD:
        raise InputError(
            f"{file}: ignore_label is {label!r}; it is the label in memory of pixels without a "
            f"class, a number from {num_classes} (the number of classes) to {_WORD}"
        )
    return label


def _read_root(file: str, root: Any) -> str | None:
    if root is not None and not (isinstance(root, str) and root):
        raise InputError(f"{file}: root is {root!r}; give a folder, or {_ROOT_VARIABLE}")
    if root and "$" in root and not re.fullmatch(re.escape(_ROOT_VARIABLE) + r"(/.*)?", root):
        raise InputError(f"{file}: root is {root!r}; the one variable known is {_ROOT_VARIABLE}")
    return root


def _read_classes(file: str, content: Any, has_colors: bool) -> tuple[Class, ...]:
    if isinstance(content, str):
        content = read_class_file(os.path.join(os.path.dirname(file), content), file)
    if not isinstance(content, list):
        raise InputError(
            f"{file}: classes is {content!r}; give a list of names or maps, or the name of a JSON"
        )
    return tuple(_read_class(file, i, entry, has_colors) for i, entry in enumerate(content))


def read_class_file(path: str, named_by: str) -> list[dict[str, Any]]:
    """The classes of a JSON: a list, or the ``categories`` of COCO's format.

    Args:
        path: the file.
        named_by: the description, for errors.

    Returns:
        For each class what a description may say about it; other keys are left out.
    """
    content = read_json(path, f"list of classes of {named_by},", "utf-8-sig")
    entries = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path} holds no list of classes, and no `categories` of COCO's format")
    kept = [{k: entry[k] for k in _CLASS_KEYS if k in entry} for entry in entries]
    for entry, found in zip(kept, entries, strict=True):
        if "isthing" in found:
            entry["thing"] = bool(found["isthing"])
    return kept


def _read_class(file: str, index: int, entry: Any, has_colors: bool) -> Class:
    entry = entry if isinstance(entry, dict) else {"name": entry}
    where = f"class {index}"
    _check_keys(file, where, entry, _CLASS_KEYS)
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(
            f"{file}: the name of {where} is {name!r}; give a text, in quotation marks where YAML "
            "takes it for something else, as it does with on, no or 1"
        )
    where = f"class {name!r}"
    class_id, thing, color = entry.get("id", index), entry.get("thing", False), entry.get("color")
    if type(class_id) is not int or class_id < 0:
        raise InputError(f"{file}: the id of {where} is {class_id!r}; give a number from 0 on")
    if type(thing) is not bool:
        raise InputError(f"{file}: thing of {where} is {thing!r}; give true or false")
    if color is not None:
        color = _read_color(file, f"the color of {where}", color)
    if has_colors and "values" not in entry and color is None:
        raise InputError(
            f"{file}: {where} has no color, which label files hold with `encoding: colors`; add it"
        )
    default = [class_id] if not has_colors else [list(color or ())]
    values = _read_values(file, f"values of {where}", entry.get("values", default), has_colors)
    return Class(name, class_id, values, color, thing)


def _read_color(file: str, where: str, color: Any) -> tuple[int, int, int]:
    good = isinstance(color, list | tuple) and len(color) == 3
    if not good or any(type(part) is not int or not 0 <= part <= 255 for part in color):
        raise InputError(f"{file}: {where} is {color!r}; give [red, green, blue], each 0 to 255")
    red, green, blue = color
    return red, green, blue


def _read_values(file: str, where: str, values: Any, has_colors: bool) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise InputError(f"{file}: {where} is {values!r}; give a list")
    if has_colors:
        colors = [_read_color(file, f"an entry of {where}", value) for value in values]
        return tuple(map(pack_color, colors))
    if wrong := [value for value in values if type(value) is not int or value < 0]:
        raise InputError(
            f"{file}: {where} has {wrong[0]!r}; give numbers from 0 on, or, with `encoding: "
            "colors`, colours [red, green, blue]"
        )
    return tuple(values)


def _read_splits(file: str, name: str, task: str, content: Any) -> list[Split]:
    _check_keys(file, "splits", content, content if isinstance(content, dict) else ())
    splits = []
    for key, entry in content.items():
        _check_name(file, "the name of a split", key)
        where = f"split {key}"
        _check_keys(file, where, entry, _SPLIT_KEYS)
        for part, value in entry.items():
            if not isinstance(value, str) or not value:
                raise InputError(f"{file}: {part} of {where} is {value!r}; give a text")
        if "images" not in entry:
            raise InputError(f"{file}: {where} has no images; give the folder of its pictures")
        labels = [part for part in ("labels", "panoptic", "json") if part in entry]
        missing = [part for part in _NEEDED[task] if part not in entry]
        unused = [part for part in labels if part not in _USED[task]]
        if labels and missing:
            needed = ", ".join(missing)
            raise InputError(f"{file}: {where} has no {needed}, which {task} data need; add it")
        if unused:
            raise InputError(
                f"{file}: {where} has {', '.join(unused)}, which {task} data do not use; mend task"
            )
        if "json" in entry and (unused := [part for part in _OF_FOLDERS if part in entry]):
            raise InputError(
                f"{file}: {where} has {', '.join(unused)}, which would not be used: its json names "
                "the pictures and their files; take that out"
            )
        registered = entry.get("name", f"{name}_{key}")
        _check_name(file, f"the name of {where}", registered)
        paths = {part: entry.get(part) for part in ("labels", "panoptic", "json", "list")}
        suffixes = {part: entry.get(part, "") for part in ("image_suffix", "label_suffix")}
        splits.append(Split(registered, entry["images"], **paths, **suffixes))
    names = [split.name for split in splits]
    if twice := {each for each in names if names.count(each) > 1}:
        raise InputError(f"{file}: two splits are named {', '.join(twice)}; name them apart")
    return splits


def _check_unambiguous(description: Description) -> None:
    """Refuses names, ids and values that stand twice."""
    file, classes = description.file, description.classes
    values = [value for entry in classes for value in entry.values] + list(description.ignore)
    named = map(unpack_color, values) if description.has_colors else values
    for what, found in (
        ("name", [entry.name for entry in classes]),
        ("id", [str(entry.id) for entry in classes]),
        ("value", [str(value) for value in named]),
    ):
        if twice := [each for each, number in Counter(found).items() if number > 1]:
            raise InputError(
                f"{file}: the {what} {twice[0]} stands more than once among classes and ignore; "
                "each may stand once"
            )
    has_ids = not description.has_colors and any(split.labels for split in description.splits)
    if has_ids and (highest := max(values, default=0)) > _WORD:
        raise InputError(
            f"{file}: classes and ignore have the value {highest}, but label files hold values "
            f"from 0 to {_WORD}; mend it, and number the values of the files anew"
        )
    merged = [entry.name for entry in classes if len(entry.values) > 1 and not entry.is_thing]
    if merged and description.task == "panoptic":
        raise InputError(
            f"{file}: class {merged[0]!r} merges several values, but in a panoptic map stuff "
            "that is merged would be several segments; merge it in the files"
        )
    if description.task == "instance" and description.has_colors:
        raise InputError(f"{file}: `encoding: colors` is for label files, which instances lack")
