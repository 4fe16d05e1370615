"""The ground truth of data sets whose description merges, renames or drops categories."""

import os
from pathlib import Path
from typing import Any

from detectron2.data import detection_utils
from PIL import Image

from ..data.datasets import registered_row
from ..data.json_files import used_categories
from ..data.reading import id_to_rgb, rgb_to_id

Content = dict[str, Any]


def described_panoptic(name: str, truth: Content, root: str, folder: str) -> tuple[Content, str]:
    """The content of a panoptic JSON and the folder of its PNGs, in the classes of a description.

    Args:
        name: a registered data set.
        truth: as it lies.
        root: the folder of the PNGs.
        folder: where PNGs go in which segments that are ignored have become void.

    Returns:
        Both as given where the data set is not described, or its categories are its classes.
    """
    categories = _changed_categories(name, truth)
    if categories is None:
        return truth, root
    annotations, ignored = [], {}
    for entry in truth["annotations"]:
        kept = [s for s in entry["segments_info"] if categories.get(s["category_id"]) is not None]
        kept = [{**s, "category_id": categories[s["category_id"]]} for s in kept]
        left_out = {s["id"] for s in entry["segments_info"]} - {s["id"] for s in kept}
        ignored[entry["file_name"]] = left_out
        annotations.append({**entry, "segments_info": kept})
    truth = {**truth, "categories": _described_categories(name), "annotations": annotations}
    if not any(ignored.values()):
        return truth, root
    for file_name, ids in ignored.items():
        _write_with_void(os.path.join(root, file_name), Path(folder, file_name), ids)
    return truth, folder


def described_instances(name: str, truth: Content) -> Content:
    """The content of an instance JSON in the classes of a description; ignored ones are left out.

    Args:
        name: a registered data set.
        truth: as it lies; returned where the data set is not described, or needs no change.
    """
    categories = _changed_categories(name, truth)
    if categories is None:
        return truth
    annotations = [
        {**entry, "category_id": categories[entry["category_id"]]}
        for entry in truth.get("annotations", ())  # a test set has none
        if categories.get(entry["category_id"]) is not None
    ]
    return {**truth, "categories": _described_categories(name), "annotations": annotations}


def _changed_categories(name: str, truth: Content) -> dict[int, int | None] | None:
    """The id of the class of each category, None where it is ignored; or None if none changes."""
    row = registered_row(name)
    if row is None:
        return None
    classes = row.description.classes
    found = row.description.categories()
    ids = {value: None if i is None else classes[i].id for value, i in found.items()}
    # What is used need not be listed: a panoptic JSON without categories gets those of the classes.
    named = {entry["id"] for entry in truth["categories"]} | {*used_categories(truth)}
    return None if all(ids.get(value) == value for value in named) else ids


def _described_categories(name: str) -> list[Content]:
    row = registered_row(name)
    assert row is not None
    return [
        {"id": entry.id, "name": entry.name, "isthing": int(entry.is_thing)}
        for entry in row.description.classes
    ]


def _write_with_void(source: str, target: Path, ignored: set[int]) -> None:
    """Copies a panoptic PNG; pixels of ignored segments become void."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not ignored:
        target.symlink_to(os.path.abspath(source))
        return
    ids = rgb_to_id(detection_utils.read_image(source, "RGB"))
    for segment in ignored:
        ids[ids == segment] = 0
    Image.fromarray(id_to_rgb(ids)).save(target)
