"""Data sets that describe themselves, in Detectron2's catalogs: the package's own, and a user's.

Registering reads no file of a data set. The folder that holds the package's own,
``DETECTRON2_DATASETS`` (default ``datasets``), is looked up whenever a data set is used, so that it
can be set at any time; Detectron2's own data sets keep the folder of the moment at which Detectron2
was imported.
"""

import json
import os
from collections.abc import Iterator
from functools import cache
from importlib.resources import as_file, files
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from ..errors import InputError
from .description import Class, Description, Split, read_description
from .json_files import read_json
from .pairing import Pair, label_files, pictures
from .reading import describe_root, listed, naming

Sample = dict[str, Any]


class DescribedSet(NamedTuple):
    """A split of a description: what a catalog entry loads, and its metadata."""

    description: Description
    split: Split

    @property
    def name(self) -> str:
        """Under which it is registered."""
        return self.split.name

    def paths(self) -> dict[str, str]:
        """The folders and files, under their names in the metadata."""
        json_key = "json_file" if self.description.task == "instance" else "panoptic_json"
        written = {
            "image_root": self.split.images,
            "sem_seg_root": self.split.labels if self.description.task == "semantic" else None,
            "panoptic_root": self.split.panoptic,
            json_key: self.split.json,
        }
        return {key: self._path(value) for key, value in written.items() if value is not None}

    def metadata(self) -> dict[str, Any]:
        """What Detectron2's evaluators and visualizer know about the classes."""
        task = self.description.task
        metadata = {**_METADATA[task](self.description.classes)}
        metadata["ignore_label"] = self.description.ignore_label
        metadata["evaluator_type"] = "coco" if task == "instance" else "sem_seg"
        if task == "panoptic":
            metadata["evaluator_type"] = (
                "ade20k_panoptic_seg" if self.split.labels else "coco_panoptic_seg"
            )
        return metadata

    def load(self) -> list[Sample]:
        """The samples, in the order of their names or of the JSON.

        Raises:
            InputError: a file or a folder is missing, or it contradicts the description.
        """
        unregistered = {"sem_seg_root": self.split.labels, "list": self.split.list}
        paths = {k: self._path(v) for k, v in unregistered.items() if v is not None}
        check_paths(self.name, {**refresh_paths(self), **paths})
        if not self.split.is_labelled or self.description.task == "semantic":
            return list(self._semantic_samples())
        if self.description.task == "instance":
            return list(self._instance_samples())
        samples = list(self._panoptic_samples())
        if not samples:
            json_file = self.paths()["panoptic_json"]
            raise InputError(f"{json_file} lists no images; prepare the data set {self.name} again")
        keys = ("file_name", "pan_seg_file_name", "sem_seg_file_name")
        check_paths(self.name, {key: samples[0][key] for key in keys if key in samples[0]})
        return samples

    def _path(self, written: str) -> str:
        return self.description.path(written)

    def _semantic_samples(self) -> Iterator[Sample]:
        for pair in self._pairs():
            sample = {"file_name": pair.image}
            if pair.labels is not None:
                sample.update(self._labels(pair.labels))
            yield sample

    def _pairs(self) -> list[Pair]:
        split = self.split
        images = self._path(split.images)
        labels = self._path(split.labels) if split.labels is not None else None
        listing = self._path(split.list) if split.list is not None else None
        found = pictures(images, split.image_suffix, listing, labels)
        if labels is not None:
            found = label_files(self.name, found, labels, split.image_suffix, split.label_suffix)
        if not found:
            raise InputError(f"data set {self.name} has no pictures in {listing or images}")
        return found

    def _labels(self, file_name: str) -> Sample:
        """A label map as a sample names it, with the values that are no labels yet."""
        values = self.description.label_values()
        return {"sem_seg_file_name": file_name} | ({"label_values": values} if values else {})

    def _panoptic_samples(self) -> Iterator[Sample]:
        """Image ids are kept as they stand in the JSON.

        Detectron2's loader makes numbers of them, which ADE20K's are not, and knows no labels.
        """
        paths = self.paths()
        json_file = paths["panoptic_json"]
        content = read_json(json_file, "panoptic JSON")
        images = {pair.stem: pair.image for pair in pictures(paths["image_root"])}
        named = {image.get("id"): image.get("file_name") for image in content.get("images", ())}
        categories = self.description.categories()
        for annotation in content["annotations"]:
            file_name = annotation["file_name"]
            where = f"{json_file} ({file_name})"
            stem = os.path.splitext(file_name)[0]
            image = os.path.splitext(named.get(annotation["image_id"]) or file_name)[0]
            fallback = os.path.join(paths["image_root"], f"{stem}.jpg")
            sample = {
                "file_name": images.get(image) or images.get(stem) or fallback,
                "image_id": annotation["image_id"],
                "pan_seg_file_name": os.path.join(paths["panoptic_root"], file_name),
                "segments_info": [
                    self._segment(segment, categories, where)
                    for segment in annotation["segments_info"]
                ],
            }
            if self.split.labels is not None:
                sample.update(self._labels(os.path.join(self._path(self.split.labels), file_name)))
            yield sample

    def _segment(
        self, info: dict[str, Any], categories: dict[int, int | None], where: str
    ) -> dict[str, Any]:
        """A segment with the class of its category; a crowd, which nobody learns, without one."""
        category = self._category(info["category_id"], categories, f"{where} has a segment")
        if category is None:
            return {**info, "category_id": 0, "isthing": False, "iscrowd": 1}
        isthing = self.description.classes[category].is_thing
        return {**info, "category_id": category, "isthing": isthing}

    def _category(self, value: Any, categories: dict[int, int | None], where: str) -> int | None:
        """The class of a ``category_id``; None where it is ignored."""
        if value in categories:
            return categories[value]
        if self.description.ignores_rest:
            return None
        known = [each for each, category in categories.items() if category is not None]
        is_range = known == list(range(len(known)))
        raise InputError(
            f"{where} of category_id {value}, but the classes are "
            f"{f'0 to {len(known) - 1}' if is_range else listed(known)}; mend the "
            f"JSON or {self.description.file}, or prepare the data set again"
        )

    def _instance_samples(self) -> Iterator[Sample]:
        paths = self.paths()
        with naming(paths["json_file"], "annotations"):
            samples = load_coco_json(paths["json_file"], paths["image_root"])
        categories = self.description.categories()
        for sample in samples:
            where = f"{paths['json_file']} ({sample['file_name']}) has an annotation"
            for annotation in sample["annotations"]:
                category = self._category(annotation["category_id"], categories, where)
                annotation["category_id"] = category or 0
                if category is None:
                    annotation["iscrowd"] = 1
            yield sample


def _semantic_metadata(classes: tuple[Class, ...]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"stuff_classes": [entry.name for entry in classes]}
    if all(entry.color for entry in classes):
        metadata["stuff_colors"] = _colors(classes)
    if any(entry.id != i for i, entry in enumerate(classes)):
        metadata["stuff_dataset_id_to_contiguous_id"] = {e.id: i for i, e in enumerate(classes)}
    return metadata


def _panoptic_metadata(classes: tuple[Class, ...]) -> dict[str, Any]:
    """Things and stuff share one list of classes, so that both evaluators serve."""
    names = [entry.name for entry in classes]
    ids = {entry.id: i for i, entry in enumerate(classes)}
    metadata: dict[str, Any] = {"thing_classes": names, "stuff_classes": names}
    if all(entry.color for entry in classes):
        metadata.update(thing_colors=_colors(classes), stuff_colors=_colors(classes))
    things = {entry.id: i for i, entry in enumerate(classes) if entry.is_thing}
    metadata["thing_dataset_id_to_contiguous_id"] = things
    metadata["stuff_dataset_id_to_contiguous_id"] = ids
    return {**metadata, "json_file": None, "label_divisor": 1000}


def _instance_metadata(classes: tuple[Class, ...]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"thing_classes": [entry.name for entry in classes]}
    if all(entry.color for entry in classes):
        metadata["thing_colors"] = _colors(classes)
    ids = {entry.id: i for i, entry in enumerate(classes)}
    return {**metadata, "thing_dataset_id_to_contiguous_id": ids}


def _colors(classes: tuple[Class, ...]) -> list[list[int]]:
    return [list(entry.color or ()) for entry in classes]


_METADATA = {
    "semantic": _semantic_metadata,
    "panoptic": _panoptic_metadata,
    "instance": _instance_metadata,
}


@cache
def own_sets() -> list[DescribedSet]:
    """The splits of the descriptions in the folder ``descriptions``."""
    with as_file(files(__package__) / "descriptions") as folder:
        found = [read_description(str(file)) for file in sorted(folder.glob("*.yaml"))]
    return [row for description in found for row in _splits(description)]


def _splits(description: Description) -> Iterator[DescribedSet]:
    return (DescribedSet(description, split) for split in description.splits)


def register_all() -> list[str]:
    """Adds our data sets to Detectron2's catalogs, and the colours that its ADE20K sets lack.

    Returns:
        The names that another package had registered before; its registrations stay.
    """
    taken = []
    for row in own_sets():
        if row.name not in DatasetCatalog:
            _register(row)
        elif registered_row(row.name) is None:
            taken.append(row.name)
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"ade20k_sem_seg_{split}")
        if metadata.get("stuff_colors") is None:
            metadata.stuff_colors = [entry["color"] for entry in read_categories("ade20k_150")]
    return taken


def register_descriptions(cfg: CfgNode) -> None:
    """Adds the data sets of ``DATASETS.DESCRIPTIONS`` to the catalogs, once; done before any use.

    Raises:
        InputError: a description is missing or wrong, or a name is taken by another data set.
    """
    for file in cfg.DATASETS.get("DESCRIPTIONS", ()):
        for row in _splits(read_description(os.path.abspath(os.path.expanduser(file)))):
            if row.name not in DatasetCatalog:
                _register(row)
            elif registered_row(row.name) != row:
                _replace(row)


def _register(row: DescribedSet) -> None:
    DatasetCatalog.register(row.name, row.load)
    MetadataCatalog.get(row.name).set(**row.metadata())
    refresh_paths(row)


def _replace(row: DescribedSet) -> None:
    """Registers a split again whose description has changed."""
    before = registered_row(row.name)
    if before is None or before.description.file != row.description.file:
        other = "another package" if before is None else before.description.file
        raise InputError(
            f"{row.description.file}: the data set {row.name} is registered by {other} already; "
            "change `name` of the description or of the split"
        )
    DatasetCatalog.remove(row.name)
    MetadataCatalog.remove(row.name)
    _register(row)


def registered_row(name: str) -> DescribedSet | None:
    """The described set that serves a registered name; None if it is someone else's."""
    row = getattr(DatasetCatalog[name], "__self__", None)
    return row if isinstance(row, DescribedSet) else None


def read_categories(table: str) -> list[dict[str, Any]]:
    """The classes of a data set in the order of their contiguous ids.

    Args:
        table: the stem of a file in the folder ``categories``.

    Returns:
        For each class ``id`` (in the data set's files), ``name`` and, where known, ``color`` (RGB)
        and ``isthing``.
    """
    source = files(__package__) / "categories" / f"{table}.json"
    return json.loads(source.read_text(encoding="utf-8"))


def refresh_paths(row: DescribedSet) -> dict[str, str]:
    """Brings the paths in a data set's metadata, if registered, up to ``DETECTRON2_DATASETS``."""
    paths = row.paths()
    if row.name not in DatasetCatalog or registered_row(row.name) != row:
        return paths
    metadata = MetadataCatalog.get(row.name)
    for key in paths.keys() & vars(metadata).keys():
        delattr(metadata, key)  # Metadata refuses to change a value
    metadata.set(**paths)
    return paths


def check_paths(name: str, paths: dict[str, str]) -> None:
    """Refuses a data set whose folders or annotation files are missing or empty."""
    for key, path in paths.items():
        is_filled = PathManager.isdir(path) and bool(PathManager.ls(path))
        if not (is_filled or PathManager.isfile(path)):
            raise InputError(
                f"data set {name} needs {path} ({key}), which does not exist or is empty; put or "
                "prepare it there, or set DETECTRON2_DATASETS, before Python starts, to the folder "
                f"that holds the data sets ({describe_root()})"
            )
