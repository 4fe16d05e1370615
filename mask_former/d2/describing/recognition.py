"""What lies in a folder, as the content of a description of a data set."""

import hashlib
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..data.json_files import read_json
from ..data.reading import naming
from ..errors import InputError
from ..run.files import replacing
from .coco import Annotations, convert_yolo, find_annotations
from .conversion import convert
from .folders import (
    Found,
    find_splits,
    lie_among_pictures,
    listed_without_picture,
    why_not_paired,
)
from .foreign import Foreign, Kind, find_foreign
from .values import Names, find_names, name_classes, published_names, scan

_VAL_SHARE = 0.2
_SPLITS = ("train", "val", "test", "")
_FORMATS = (
    "pictures and label maps with the same names (images/train and labels/train, train/images and "
    "train/masks, images and masks, or side by side with an ending such as _mask), COCO's instance "
    "or panoptic JSON, YOLO's data.yaml, and LabelMe, CVAT or Datumaro; of other formats Datumaro "
    "reads, name one by --format, as in `datum convert --help`"
)


class Recognized(NamedTuple):
    """The description that fits a folder."""

    content: dict[str, Any]
    notes: list[str]
    """Sentences about what was found and decided."""


def recognize(
    folder: str,
    output: str,
    ignore: Sequence[int] = (),
    names: str | None = None,
    format: str | None = None,
    workers: int | None = None,
) -> Recognized:
    """Finds out what lies in a folder.

    Args:
        folder: of pictures and their annotations.
        output: an existing folder, for lists of files and for annotations that are converted.
        ignore: values of label files that nobody is trained on.
        names: a file of class names; None: one that lies in the folder.
        format: as Datumaro calls it, which then reads the folder; None: it is found out.
        workers: processes that read label maps; None: as many as their number asks for.

    Raises:
        InputError: nothing known lies there, or a file is broken.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is no folder; give the folder that holds the pictures")
    folder = os.path.abspath(folder)
    if format is not None:
        named = Foreign(Kind(f"the format {format}", "datumaro", format), folder)
        return _from_annotations(folder, output, *convert(named, folder, output))
    yolo = convert_yolo(folder, output)
    if yolo is not None:
        found, file = yolo
        note = f"YOLO's polygons of {file} are written as COCO's instances below {output}"
        return _from_annotations(folder, output, found, [note])
    found, notes = find_annotations(folder)
    if found:
        return _from_annotations(folder, output, found, notes)
    splits = find_splits(folder)
    foreign = find_foreign(folder, is_needed=not splits)
    if foreign is not None and _explains(foreign, splits):
        return _from_annotations(folder, output, *convert(foreign, folder, output))
    if splits:
        known = find_names(folder, names)
        return _from_pairs(folder, output, splits, ignore, known, workers)
    if fault := why_not_paired(folder):
        raise InputError(f"{folder} has {fault}")
    raise InputError(f"nothing that is known lies in {folder}; known are {_FORMATS}")


def _explains(foreign: Foreign, splits: dict[str, Found]) -> bool:
    """Whether annotations of another program are meant, and no label maps."""
    is_doubtful = foreign.kind.package is not None and lie_among_pictures(splits)
    return not splits or foreign.kind.before_masks or is_doubtful


def _name(folder: str) -> str:
    return re.sub(r"[^\w-]+", "_", os.path.basename(folder)).strip("_") or "data"


def _from_annotations(
    folder: str, output: str, found: list[Annotations], notes: list[str]
) -> Recognized:
    is_panoptic = found[0].panoptic is not None
    files = ", ".join(each.json for each in found)
    if len(found) == 1 and len(found := _drawn_annotations(found[0], folder, output)) > 1:
        notes.append(
            f"the folder does not say what to train and what to validate on: {_VAL_SHARE:.0%} of "
            f"the pictures are drawn for validation, and listed in {found[1].json}"
        )
    splits: dict[str, Any] = {}
    for each in found:
        paths = {"images": each.images, "json": each.json, "panoptic": each.panoptic}
        if each.split in splits:
            raise InputError(
                f"{each.json} and {splits[each.split]['json']} are both of the split {each.split}; "
                "take one away, or join them"
            )
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
        [f"{task} annotations in {files}", *notes],
    )


def _from_pairs(
    folder: str,
    output: str,
    found: dict[str, Found],
    ignore: Sequence[int],
    known: Names | None,
    workers: int | None,
) -> Recognized:
    files = [os.path.join(folder, label) for f in found.values() for _, label in f.pairs if label]
    values = scan(files, known.has_colors if known else None, workers)
    known = known or published_names(files, values)
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
    drawn = [] if {"train", "val"} <= set(labelled) else labelled or ["test"]
    notes += _left_out(folder, found, drawn)
    if drawn:
        pairs = [pair for split in drawn for pair in found[split].pairs]
        splits = {**splits, **_drawn_splits(folder, pairs, output)}
        notes.append(
            "the folder does not say what to train and what to validate on: "
            f"{_VAL_SHARE:.0%} of the pictures are drawn for validation, and "
            f"listed in {os.path.join(output, 'val.txt')}"
        )
    ordered = {split: splits[split] for split in _SPLITS if split in splits}
    return Recognized({**content, "splits": ordered}, notes)


def _left_out(folder: str, found: dict[str, Found], drawn: Sequence[str]) -> Iterator[str]:
    """What the lists of splits do not name, so that no survey can tell of it."""
    listed = [each for s, each in found.items() if s in drawn or (s and not each.is_regular)]
    listed = [each for each in listed if any(label for _, label in each.pairs)]
    of_none = found[""].pairs if "" in found and "" not in drawn else []
    for what, paths in (
        (
            "pictures have no label map",
            [i for each in listed for i, label in each.pairs if not label],
        ),
        ("label maps have no picture", [label for each in listed for label in each.orphans]),
        ("pictures are in no split", [image for image, _ in of_none]),
        ("names in lists of splits have no picture", listed_without_picture(folder, found)),
    ):
        if paths:
            yield f"{len(paths)} {what} and are left out, such as {paths[0]}"


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
    """Train and val as lists."""
    labelled = [(image, labels) for image, labels in pairs if labels is not None]
    train, val = _draw([os.path.join(folder, image) for image, _ in labelled])
    if not train:
        same = f", all the same as {labelled[0][0]}" if len(labelled) > 1 else ""
        raise InputError(
            f"of the {len(pairs)} pictures of {folder}, {len(labelled)} have a label map{same}; "
            "two different ones are needed, to train and test"
        )
    parts = {"train": train, "val": val}
    return {
        split: {
            "images": ".",
            "labels": ".",
            "list": _write_list(split, sorted(labelled[i] for i in part), output),
        }
        for split, part in parts.items()
    }


def _draw(pictures: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of pictures to train and to validate on; those of the same content stay together.

    With less than two different pictures, there are none to train on.
    """
    same = defaultdict(list)
    for i, file in enumerate(pictures):
        content = Path(file).read_bytes()
        same[hashlib.sha1(content, usedforsecurity=False).digest()].append(i)
    groups = list(same.values())
    random.Random(0).shuffle(groups)
    number = max(1, round(_VAL_SHARE * len(groups)))
    train, val = (
        [i for group in part for i in group] for part in (groups[number:], groups[:number])
    )
    return sorted(train), sorted(val)


def _drawn_annotations(found: Annotations, folder: str, output: str) -> list[Annotations]:
    """Two JSON files in place of one that does not say what to validate on.

    Pictures that nothing is marked in are trained on. With less than two others, the file is left
    as it is.
    """
    source = os.path.join(folder, found.json)
    content = read_json(source, encoding="utf-8-sig")
    with naming(source, "JSON"):
        marked = {entry["image_id"] for entry in content["annotations"]}
        images = [image for image in content["images"] if image["id"] in marked]
        files = [os.path.join(folder, found.images, image["file_name"]) for image in images]
    train, val = _draw([file for file in files if os.path.isfile(file)])
    if not train or not all(map(os.path.isfile, files)):
        return [found]  # the survey names the files that are missing
    validated = {images[i]["id"] for i in val}
    drawn = []
    for split in ("train", "val"):
        file = os.path.join(output, "annotations", f"{Path(found.json).stem}_{split}.json")
        part = dict(content)
        for key, name in (("images", "id"), ("annotations", "image_id")):
            part[key] = [e for e in content[key] if (e[name] in validated) == (split == "val")]
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with replacing(file) as stream:
            stream.write(json.dumps(part).encode())
        drawn.append(found._replace(split=split, json=os.path.abspath(file)))
    return drawn


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
