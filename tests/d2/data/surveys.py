"""Small data sets to survey, and what was found."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mask_former.d2.data.findings import Finding
from mask_former.d2.data.survey import Survey

CLASSES = ["road", "sky", {"name": "car", "values": [13, 14], "thing": True}]
SPLITS = {
    split: {"images": f"images/{split}", "labels": f"labels/{split}"} for split in ("train", "val")
}
NOISE = np.random.RandomState(0).randint(0, 256, (4, 64, 96, 3), dtype=np.uint8)


def blocks(*values: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A label map of columns that are equally wide."""
    return np.repeat(np.array(values, np.uint8), size[1] // len(values))[None].repeat(size[0], 0)


def write_pairs(save, labels: dict[str, np.ndarray]) -> None:
    for number, (name, values) in enumerate(labels.items()):
        picture = NOISE[number][: values.shape[0], : values.shape[1]]
        save(f"images/{name}.png", picture)
        save(f"labels/{name}.png", values)


def kinds(found: Survey) -> dict[str, int]:
    return {finding.kind: finding.number for finding in found.findings}


def the(found: Survey, kind: str) -> Finding:
    (finding,) = [finding for finding in found.findings if finding.kind == kind]
    return finding


PARTS = {"panoptic": "pan", "json": "pan.json", "images": "images"}


def write_panoptic(save, tmp_path: Path, **changes: Any) -> None:
    """One picture: void, a road (two segments where merged), two cars, one of them a crowd."""
    ids = np.zeros((64, 96, 3), np.uint8)
    ids[..., 0] = blocks(0, 1, 2, 3)
    save("pan/x.png", ids)
    save("images/x.png", NOISE[0])
    segments = [
        {"id": 1, "category_id": 7, "iscrowd": 0},
        {"id": 2, "category_id": 9, "iscrowd": 0},
        {"id": 3, "category_id": 9, "iscrowd": 1},
    ]
    content = {
        "images": [{"id": 1, "file_name": "x.png", "width": 96, "height": 64}],
        "annotations": [{"image_id": 1, "file_name": "x.png", "segments_info": segments}],
        "categories": [{"id": 7, "name": "a", "isthing": 0}, {"id": 9, "name": "b", "isthing": 1}],
    }
    (tmp_path / "pan.json").write_text(json.dumps({**content, **changes}))


ROAD = {"name": "road", "id": 7}
CAR = {"name": "car", "id": 9, "thing": True}
PANOPTIC = {"task": "panoptic", "classes": [ROAD, CAR], "ignore": None, "splits": {"train": PARTS}}


def write_instances(save, tmp_path: Path, *segmentations: Any, crowd: int = 0) -> None:
    save("images/x.png", NOISE[0])
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 9,
            "iscrowd": crowd if i == len(segmentations) else 0,
            "area": 1,
            "bbox": [0, 0, 1, 1],
            "segmentation": segmentation,
        }
        for i, segmentation in enumerate(segmentations, start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "x.png", "width": 96, "height": 64}],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "car"}],
    }
    (tmp_path / "inst.json").write_text(json.dumps(content))


def square(x: int, side: int) -> list[list[int]]:
    return [[x, 0, x + side, 0, x + side, side, x, side]]


INSTANCES = {
    "task": "instance",
    "classes": [CAR],
    "ignore": None,
    "splits": {"train": {"images": "images", "json": "inst.json"}},
}
