"""Annotations of other programs made COCO's instances, by supervision or Datumaro."""

import json
import os
from typing import Any

from ..errors import InputError
from ..run.files import replacing
from . import datumaro_reader, supervision_reader
from .coco import Annotations
from .foreign import Foreign, refuse
from .gathering import Gathering
from .values import IGNORED_NAMES


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
    gathered = Gathering(folder)
    reader = supervision_reader if found.kind.package == "supervision" else datumaro_reader
    reader.gather(found, gathered)
    of_none = sum(not picture.split for picture in gathered.pictures)
    if 0 < of_none < len(gathered.pictures):
        gathered.counted["pictures are in no folder of a split: not used, in the split all"] = (
            of_none
        )
    counts = [f"{number} {what}" for what, number in sorted(gathered.counted.items())]
    if not any(picture.instances for picture in gathered.pictures):
        raise InputError(
            f"{found.file} and what lies beside it, {found.kind.name}, have no polygons or masks"
            f"{''.join(f'; {count}' for count in counts)}; a model of masks cannot learn from them"
        )
    target = os.path.join(os.path.abspath(output), "converted")
    where = "" if found.file == folder else f" ({os.path.relpath(found.file, folder)} and others)"
    return _write(gathered, target), [
        f"{found.kind.name}{where} is read by {found.kind.package} "
        f"and written as COCO's instances in {target}",
        *counts,
    ]


def _write(gathered: Gathering, target: str) -> list[Annotations]:
    """A JSON for each split."""
    used = {instance.name for picture in gathered.pictures for instance in picture.instances}
    left_out = {"background", *IGNORED_NAMES} - used  # Datumaro lists them among the classes
    names = [name for name in gathered.names if name not in left_out]
    os.makedirs(target, exist_ok=True)
    found = []
    for split in dict.fromkeys(picture.split for picture in gathered.pictures):
        file = os.path.join(target, f"instances_{split or 'all'}.json")
        with replacing(file) as stream:
            stream.write(json.dumps(_content(gathered, split, names)).encode())
        classes = [{"name": name, "id": n, "thing": True} for n, name in enumerate(names)]
        found.append(Annotations(split or "all", file, ".", None, classes))
    return found


def _content(gathered: Gathering, split: str, names: list[str]) -> dict[str, Any]:
    """A split in COCO's format."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for picture in gathered.pictures:
        if picture.split != split:
            continue
        height, width = picture.size
        number = len(images) + 1
        images.append({"id": number, "file_name": picture.path, "height": height, "width": width})
        for each in picture.instances:
            entry = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0}
            shape = {"segmentation": each.segmentation, "area": each.area, "bbox": each.box}
            annotations.append({**entry, "category_id": names.index(each.name), **shape})
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}
