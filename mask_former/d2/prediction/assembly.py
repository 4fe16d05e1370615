"""One file of all pictures, made of the journal: COCO's JSON of masks and of panoptic segments.

Rows are read again and again from the disk, so that a million pictures need no more memory than
their names.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..run.files import replacing
from ..visualization.regions import class_metadata
from ..weights.record import known_classes
from .gallery import write_gallery
from .journal import Row, Rows, regions_of


def categories(cfg: CfgNode) -> list[dict[str, Any]]:
    """The classes as COCO lists them; ``id`` is the model's number, from 0 on."""
    known, plain = known_classes(cfg), class_metadata(cfg)
    return [
        {
            "id": number,
            "name": entry.get("name", plain.stuff_classes[number]),
            "isthing": int(entry.get("isthing", False)),
            "color": entry.get("color", [int(value) for value in plain.stuff_colors[number]]),
        }
        for number, entry in enumerate(known or [{}] * len(plain.stuff_classes))
    ]


def assemble(folder: Path, rows: Rows, settings: dict[str, Any]) -> None:
    """Writes what the settings ask for, of the rows that have results."""
    classes = settings["categories"]
    if "coco" in settings["formats"]:
        _write(folder / "coco.json", rows, _coco_annotations(rows), classes)
    if "panoptic" in settings["formats"]:
        _write(folder / "panoptic.json", rows, _panoptic_annotations(rows), classes)
    if settings["gallery"]:
        write_gallery(folder / "gallery.html", folder, rows, classes)


def _good(rows: Rows) -> Iterator[tuple[int, Row]]:
    """Rows with results, and the numbers of their pictures: from 1 on, in the order of names."""
    return enumerate((row for row in rows if "error" not in row), start=1)


def _coco_annotations(rows: Rows) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, row in _good(rows):
        for region in regions_of(row):
            number += 1
            kept = ("category_id", "score", "area", "bbox", "segmentation")
            entry = {key: region[key] for key in kept if key in region}
            yield {"id": number, "image_id": image_id, "iscrowd": 0, **entry}


def _panoptic_annotations(rows: Rows) -> Iterator[dict[str, Any]]:
    for image_id, row in _good(rows):
        segments = [
            {
                key: value
                for key, value in segment.items()
                if key not in ("segmentation", "category")
            }
            | {"iscrowd": 0}
            for segment in row["segments_info"]
        ]
        file_name = row["files"]["panoptic"].removeprefix("panoptic/")
        yield {"image_id": image_id, "file_name": file_name, "segments_info": segments}


def _write(
    path: Path, rows: Rows, annotations: Iterable[dict[str, Any]], classes: list[dict[str, Any]]
) -> None:
    """A JSON of COCO's form, an entry a line."""
    images = (
        {"id": i, "file_name": row["name"], "height": row["height"], "width": row["width"]}
        for i, row in _good(rows)
    )
    lists = {"images": images, "annotations": annotations, "categories": classes}
    with replacing(path) as file:
        for before, (name, entries) in zip("{,,", lists.items(), strict=True):
            file.write(f'{before}"{name}": ['.encode())
            for i, entry in enumerate(entries):
                file.write((",\n" if i else "\n").encode() + json.dumps(entry).encode())
            file.write(b"]\n")
        file.write(b"}\n")
