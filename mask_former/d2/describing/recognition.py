"""What lies in a folder, as the content of a description of a data set."""

import hashlib
import os
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import InputError
from ..run.files import replacing
from .coco import Annotations, convert_yolo, find_annotations
from .folders import Found, find_splits
from .values import find_names, name_classes, scan

_VAL_SHARE = 0.2
_SPLITS = ("train", "val", "test", "")
_FORMATS = (
    "pictures and label maps with the same names (images/train and labels/train, train/images and "
    "train/masks, images and masks, or side by side with an ending such as _mask), COCO's instance "
    "or panoptic JSON, or YOLO's data.yaml"
)


class Recognized(NamedTuple):
    """The description that fits a folder."""

    content: dict[str, Any]
    notes: list[str]
    """Sentences about what was found and decided."""


def recognize(
    folder: str, output: str, ignore: Sequence[int] = (), names: str | None = None
) -> Recognized:
    """Finds out what lies in a folder.

    Args:
        folder: of pictures and their annotations.
        output: an existing folder, for lists of files and for annotations that are converted.
        ignore: values of label files that nobody is trained on.
        names: a file of class names; None: one that lies in the folder.

    Raises:
        InputError: nothing known lies there, or a file is broken.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is no folder; give the folder that holds the pictures")
    folder = os.path.abspath(folder)
    yolo = convert_yolo(folder, output)
    if yolo is not None:
        found, file = yolo
        note = f"YOLO's polygons of {file} are written as COCO's instances below {output}"
        return _from_annotations(folder, output, found, [note])
    if found := find_annotations(folder):
        return _from_annotations(folder, output, found, [])
    if splits := find_splits(folder):
        return _from_pairs(folder, output, splits, ignore, names)
    raise InputError(f"nothing that is known lies in {folder}; known are {_FORMATS}")


def _name(folder: str) -> str:
    return re.sub(r"[^\w-]+", "_", os.path.basename(folder)).strip("_") or "data"


def _from_annotations(
    folder: str, output: str, found: list[Annotations], notes: list[str]
) -> Recognized:
    is_panoptic = found[0].panoptic is not None
    splits: dict[str, Any] = {}
    for each in found:
        paths = {"images": each.images, "json": each.json, "panoptic": each.panoptic}
        splits[each.split] = {key: path for key, path in paths.items() if path is not None}
        if each.classes != found[0].classes:
            raise InputError(
                f"{each.json} has other categories than {found[0].json}; give all the same"
            )
    if "val" not in splits:
        instead = "test" if "test" in splits else next(iter(splits))
        notes.append(f"there is no split val: {instead} is evaluated instead")
    if "train" not in splits:
        notes.append(f"there is no split train: {next(iter(splits))} is trained on instead")
    ids = [entry["id"] for entry in found[0].classes]
    classes = [
        {key: value for key, value in entry.items() if key != "id" or ids != list(range(len(ids)))}
        for entry in found[0].classes
    ]
    task = "panoptic" if is_panoptic else "instance"
    return Recognized(
        {"name": _name(folder), "task": task, "root": folder, "classes": classes, "splits": splits},
        [f"{task} annotations in {', '.join(each.json for each in found)}", *notes],
    )


def _from_pairs(
    folder: str, output: str, found: dict[str, Found], ignore: Sequence[int], names: str | None
) -> Recognized:
    known = find_names(folder, names)
    files = [os.path.join(folder, label) for f in found.values() for _, label in f.pairs if label]
    values = scan(files, known.has_colors if known else None)
    named = name_classes(values, known, ignore)
    kind = "colours" if values.has_colors else "values"
    notes = [f"{len(files)} label maps with {len(values.pictures)} {kind}", *named.notes]
    if known is not None:
        notes.append(f"class names are those of {known.file}")
    content: dict[str, Any] = {"name": _name(folder), "task": "semantic", "root": folder}
    if named.encoding == "colors":
        content["encoding"] = "colors"
    content.update(classes=named.classes, ignore=named.ignore)
    splits = {s: _split_paths(s, found[s], output) for s in sorted(found, key=_SPLITS.index) if s}
    labelled = [s for s, each in found.items() if s != "test" and any(p[1] for p in each.pairs)]
    if not {"train", "val"} <= set(labelled):
        pairs = [pair for split in labelled or ["test"] for pair in found[split].pairs]
        splits = {**splits, **_drawn_splits(folder, pairs, output)}
        notes.append(
            "the folder does not say what to train and what to validate on: "
            f"{_VAL_SHARE:.0%} of the pictures are drawn for validation, and "
            f"listed in {os.path.join(output, 'val.txt')}"
        )
    ordered = {split: splits[split] for split in _SPLITS if split in splits}
    return Recognized({**content, "splits": ordered}, notes)


def _split_paths(split: str, found: Found, output: str) -> dict[str, str]:
    paths = {"images": found.images, "labels": found.labels}
    if not any(label for _, label in found.pairs):
        return {"images": found.images}
    if not found.is_regular:
        return {**paths, "list": _write_list(split, found.pairs, output)}
    suffixes = {"image_suffix": found.image_suffix, "label_suffix": found.label_suffix}
    return {**paths, **{key: suffix for key, suffix in suffixes.items() if suffix}}


def _drawn_splits(
    folder: str, pairs: Sequence[tuple[str, str | None]], output: str
) -> dict[str, Any]:
    """Train and val as lists; pictures of the same content stay together."""
    same = defaultdict(list)
    for pair in pairs:
        if pair[1] is None:
            continue
        content = Path(folder, pair[0]).read_bytes()
        same[hashlib.sha1(content, usedforsecurity=False).digest()].append(pair)
    groups = list(same.values())
    if len(groups) < 2:
        raise InputError(f"{folder} has one picture with labels; two are needed, to train and test")
    random.Random(0).shuffle(groups)
    number = max(1, round(_VAL_SHARE * len(groups)))
    parts = {"train": groups[number:], "val": groups[:number]}
    listed = {split: sorted(pair for g in part for pair in g) for split, part in parts.items()}
    return {
        split: {"images": ".", "labels": ".", "list": _write_list(split, part, output)}
        for split, part in listed.items()
    }


def _write_list(split: str, pairs: Sequence[tuple[str, str | None]], output: str) -> str:
    path = os.path.abspath(os.path.join(output, f"{split}.txt"))
    with replacing(path) as file:
        file.write("".join(f"{image}\t{label}\n" for image, label in pairs if label).encode())
    return path


def description_text(recognized: Recognized) -> str:
    """The YAML of a description, a class a line, with what was decided as comments."""
    content = dict(recognized.content)
    lines = [f"# {note}" for note in recognized.notes]
    classes = content.pop("classes")
    for key in ("name", "task", "root", "encoding"):
        if key in content:
            lines.append(yaml.safe_dump({key: content[key]}).strip())
    lines += ["classes:", *(f"  - {_inline(entry)}" for entry in classes)]
    if "ignore" in content:
        lines.append(f"ignore: {_inline(content['ignore'])}  # values that nobody is trained on")
    lines.append("splits:")
    lines += [f"  {split}: {_inline(paths)}" for split, paths in content["splits"].items()]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip()
