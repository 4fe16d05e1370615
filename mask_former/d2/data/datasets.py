"""The data sets that this package adds to Detectron2's catalogs: one row of a table each.

Registering reads no file of a data set. The folder that holds them all, ``DETECTRON2_DATASETS``
(default ``datasets``), is looked up whenever a data set is used, so that it can be set at any time;
Detectron2's own data sets keep the folder of the moment at which Detectron2 was imported.
"""

import json
import os
from importlib.resources import files
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from detectron2.utils.file_io import PathManager

from ..errors import InputError
from .reading import describe_root, naming

Sample = dict[str, Any]


class SemanticSet(NamedTuple):
    """A semantic data set: a folder of images and one of label maps with the same stems."""

    name: str
    images: str
    labels: str
    categories: str
    """The file of classes, in the folder ``categories``, in the order of their contiguous ids."""
    ignore_label: int = 255
    label_extension: str = "png"

    def paths(self) -> dict[str, str]:
        """The folders, under their names in the metadata."""
        return {"image_root": _below_root(self.images), "sem_seg_root": _below_root(self.labels)}

    def metadata(self) -> dict[str, Any]:
        """What Detectron2's evaluators and visualizer know about the classes."""
        categories = read_categories(self.categories)
        metadata: dict[str, Any] = {
            "stuff_classes": [category["name"] for category in categories],
            "evaluator_type": "sem_seg",
            "ignore_label": self.ignore_label,
        }
        if "color" in categories[0]:
            metadata["stuff_colors"] = [category["color"] for category in categories]
        if any(category["id"] != i for i, category in enumerate(categories)):
            ids = {category["id"]: i for i, category in enumerate(categories)}
            metadata["stuff_dataset_id_to_contiguous_id"] = ids
        return metadata

    def load(self) -> list[Sample]:
        """The samples, from the folders' contents."""
        paths = refresh_paths(self)
        check_paths(self.name, paths)
        return load_sem_seg(paths["sem_seg_root"], paths["image_root"], self.label_extension, "jpg")


class PanopticSet(NamedTuple):
    """A data set in COCO panoptic format with semantic label maps beside it.

    Things and stuff share one list of classes whose ids are contiguous, so that the semantic and
    the panoptic evaluator both serve.
    """

    name: str
    images: str
    panoptic: str
    panoptic_json: str
    labels: str
    categories: str

    def paths(self) -> dict[str, str]:
        """The folders and the JSON, under their names in the metadata."""
        return {
            "image_root": _below_root(self.images),
            "panoptic_root": _below_root(self.panoptic),
            "panoptic_json": _below_root(self.panoptic_json),
        }

    def metadata(self) -> dict[str, Any]:
        """What Detectron2's evaluators and visualizer know about the classes."""
        categories = read_categories(self.categories)
        names = [category["name"] for category in categories]
        colors = [category["color"] for category in categories]
        ids = [category["id"] for category in categories]
        things = [category["id"] for category in categories if category["isthing"]]
        return {
            "thing_classes": names,
            "thing_colors": colors,
            "stuff_classes": names,
            "stuff_colors": colors,
            "thing_dataset_id_to_contiguous_id": {thing: thing for thing in things},
            "stuff_dataset_id_to_contiguous_id": {category: category for category in ids},
            "json_file": None,
            "evaluator_type": "ade20k_panoptic_seg",
            "ignore_label": 255,
            "label_divisor": 1000,
        }

    def load(self) -> list[Sample]:
        """The samples, from the panoptic JSON; image ids are kept as they stand there.

        Detectron2's loader makes numbers of image ids, which ADE20K's are not, and knows no labels.
        """
        paths = refresh_paths(self)
        check_paths(self.name, {**paths, "sem_seg_root": _below_root(self.labels)})
        with naming(paths["panoptic_json"], "panoptic JSON"), open(paths["panoptic_json"]) as file:
            annotations = json.load(file)["annotations"]
        is_thing = {
            entry["id"]: entry["isthing"] == 1 for entry in read_categories(self.categories)
        }
        samples = [self._sample(annotation, paths, is_thing) for annotation in annotations]
        _check_first_files(self.name, samples, paths["panoptic_json"])
        return samples

    def _sample(
        self, annotation: dict[str, Any], paths: dict[str, str], is_thing: dict[int, bool]
    ) -> Sample:
        file_name = annotation["file_name"]
        stem = os.path.splitext(file_name)[0]
        where = f"{paths['panoptic_json']} ({file_name})"
        return {
            "file_name": os.path.join(paths["image_root"], f"{stem}.jpg"),
            "image_id": annotation["image_id"],
            "pan_seg_file_name": os.path.join(paths["panoptic_root"], file_name),
            "sem_seg_file_name": os.path.join(_below_root(self.labels), file_name),
            "segments_info": [
                _segment(info, is_thing, where) for info in annotation["segments_info"]
            ],
        }


def _segment(info: dict[str, Any], is_thing: dict[int, bool], where: str) -> dict[str, Any]:
    if info["category_id"] not in is_thing:
        raise InputError(
            f"{where} has a segment of category_id {info['category_id']}, but the classes are 0 to "
            f"{len(is_thing) - 1}; mend the JSON, or prepare the data set again"
        )
    return {**info, "isthing": is_thing[info["category_id"]]}


def _check_first_files(name: str, samples: list[Sample], panoptic_json: str) -> None:
    if not samples:
        raise InputError(f"{panoptic_json} lists no images; prepare the data set {name} again")
    keys = ("file_name", "pan_seg_file_name", "sem_seg_file_name")
    check_paths(name, {key: samples[0][key] for key in keys})


def _panoptic(name: str, files: str, folder: str, labels: str, categories: str) -> PanopticSet:
    """A panoptic set whose panoptic files lie beside the folders of images and labels."""
    root = files.partition("/")[0]
    images, label_maps = (f"{root}/{kind}/{folder}" for kind in ("images", labels))
    return PanopticSet(name, images, files, f"{files}.json", label_maps, categories)


DATASETS: list[SemanticSet | PanopticSet] = [
    *(
        SemanticSet(
            f"camvid_sem_seg_{split}",
            f"camvid/images/{split}",
            f"camvid/annotations/{split}",
            categories="camvid_11",
            ignore_label=11,
        )
        for split in ("train", "val", "test")
    ),
    *(
        _panoptic(
            f"shapes_panoptic_{split}", f"shapes/panoptic_{split}", split, "annotations", "shapes"
        )
        for split in ("train", "val", "dev")
    ),
    *(
        SemanticSet(
            f"ade20k_full_sem_seg_{split}",
            f"ADE20K_2021_17_01/images_detectron2/{folder}",
            f"ADE20K_2021_17_01/annotations_detectron2/{folder}",
            categories="ade20k_full_847",
            ignore_label=65535,
            label_extension="tif",
        )
        for split, folder in (("train", "training"), ("val", "validation"))
    ),
    *(
        _panoptic(
            f"ade20k_panoptic_{split}",
            f"ADEChallengeData2016/ade20k_panoptic_{split}",
            folder,
            "annotations_detectron2",
            "ade20k_150",
        )
        for split, folder in (("train", "training"), ("val", "validation"))
    ),
    *(
        SemanticSet(
            f"coco_2017_{split}_stuff_10k_sem_seg",
            f"coco/coco_stuff_10k/images_detectron2/{split}",
            f"coco/coco_stuff_10k/annotations_detectron2/{split}",
            categories="coco_stuff_171",
        )
        for split in ("train", "test")
    ),
    *(
        SemanticSet(
            f"mapillary_vistas_sem_seg_{split}",
            f"mapillary_vistas/{folder}/images",
            f"mapillary_vistas/{folder}/labels",
            categories="mapillary_vistas_65",
            ignore_label=65,
        )
        for split, folder in (("train", "training"), ("val", "validation"))
    ),
]


def register_all() -> list[str]:
    """Adds our data sets to Detectron2's catalogs, and the colours that its ADE20K sets lack.

    Returns:
        The names that another package had registered before; its registrations stay.
    """
    taken = [row.name for row in DATASETS if row.name in DatasetCatalog]
    for row in DATASETS:
        if row.name not in DatasetCatalog:
            DatasetCatalog.register(row.name, row.load)
            MetadataCatalog.get(row.name).set(**row.metadata())
            refresh_paths(row)
    _add_ade20k_colors()
    return [name for name in taken if registered_row(name) is None]


def registered_row(name: str) -> SemanticSet | PanopticSet | None:
    """The row that serves a registered name; None if it is someone else's."""
    row = getattr(DatasetCatalog[name], "__self__", None)
    return row if isinstance(row, SemanticSet | PanopticSet) else None


def _add_ade20k_colors() -> None:
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"ade20k_sem_seg_{split}")
        if metadata.get("stuff_colors") is None:
            metadata.stuff_colors = [entry["color"] for entry in read_categories("ade20k_150")]


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


def refresh_paths(row: SemanticSet | PanopticSet) -> dict[str, str]:
    """Brings the paths in a data set's metadata up to date with ``DETECTRON2_DATASETS``."""
    metadata, paths = MetadataCatalog.get(row.name), row.paths()
    for key in paths.keys() & vars(metadata).keys():
        delattr(metadata, key)  # Metadata refuses to change a value
    metadata.set(**paths)
    return paths


def _below_root(path: str) -> str:
    return os.path.join(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), path)


def check_paths(name: str, paths: dict[str, str]) -> None:
    """Refuses a data set whose folders or annotation files are missing or empty."""
    for key, path in paths.items():
        if not _has_content(path):
            raise InputError(
                f"data set {name} needs {path} ({key}), which does not exist or is empty; put or "
                "prepare it there, or set DETECTRON2_DATASETS, before Python starts, to the folder "
                f"that holds the data sets ({describe_root()})"
            )


def _has_content(path: str) -> bool:
    return PathManager.isfile(path) or (PathManager.isdir(path) and bool(PathManager.ls(path)))
