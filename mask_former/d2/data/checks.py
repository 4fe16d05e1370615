"""What a trainer asks about a data set before it builds anything."""

from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from ..errors import InputError, did_you_mean
from .datasets import check_paths, refresh_paths, registered_row

# The names under which Detectron2 and this package keep the paths of a data set in its metadata.
_PATHS = ("image_root", "image_dir", "sem_seg_root", "gt_dir", "panoptic_root", "panoptic_json")


def check_dataset(name: str, num_classes: int | None = None) -> None:
    """Refuses a data set that is unknown, that is not on the disk, or that has other classes.

    Args:
        name: as in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        num_classes: ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``; None compares no classes.

    Raises:
        InputError: with the path or the numbers, and the remedy.
    """
    check_name(name)
    if (row := registered_row(name)) is not None:
        refresh_paths(row)
    metadata = MetadataCatalog.get(name)
    check_paths(name, {key: metadata.get(key) for key in _needed_paths(metadata)})
    classes = _segmented_classes(metadata)
    if num_classes is not None and classes:
        _check_num_classes(name, len(classes), num_classes)


def check_name(name: str) -> None:
    """Refuses a data set that is not registered."""
    known = sorted(DatasetCatalog.list())
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(
            f"data set {name} is not registered{hint or ';'} mend DATASETS.TRAIN and "
            "DATASETS.TEST, or register it with detectron2.data.DatasetCatalog"
            + ("" if hint else f"; registered are {', '.join(known)}")
        )


def _needed_paths(metadata: Metadata) -> list[str]:
    # The json_file of a panoptic set has its instances, which only some evaluations read.
    keys = _PATHS if metadata.get("panoptic_json") else (*_PATHS, "json_file")
    return [key for key in keys if metadata.get(key)]


def _segmented_classes(metadata: Metadata) -> Sequence[str]:
    """All classes that are told apart; none where the metadata do not list them in one place."""
    kind = str(metadata.get("evaluator_type", ""))
    if kind == "coco":
        return metadata.get("thing_classes", ())  # of a JSON that has not been read yet, none
    # In separated panoptic sets, stuff_classes are not all.
    listed = kind.endswith("sem_seg") or "label_divisor" in vars(metadata)
    return metadata.get("stuff_classes", ()) if listed else ()


def _check_num_classes(name: str, found: int, num_classes: int) -> None:
    if found != num_classes:
        raise InputError(
            f"data set {name} has {found} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
            f"{num_classes}; set it to {found}, or choose another data set"
        )
