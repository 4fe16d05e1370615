"""What is asked about the data sets of a run before anything is built."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from ..errors import InputError, did_you_mean
from .datasets import (
    DescribedSet,
    check_paths,
    refresh_paths,
    register_descriptions,
    registered_row,
)
from .json_files import (
    Picture,
    check_instances,
    check_panoptic,
    path_below_root,
    picture_id,
    told_to_all,
)
from .reading import read_label_map

# The names under which Detectron2 and this package keep the paths of a data set in its metadata.
_PATHS = ("image_root", "image_dir", "sem_seg_root", "gt_dir", "panoptic_root", "panoptic_json")
_SAMPLED = 20  # label maps, from all over a data set, in which a second class is looked for first

_TRAIN_IDS = "make them with `CITYSCAPES_DATASET={root} csCreateTrainIdLabelImgs`"
_DOWNLOADED = "unpack gtFine_trainvaltest.zip below {root}"
_CITYSCAPES = {
    "instanceIds.png": _DOWNLOADED,
    "polygons.json": _DOWNLOADED,
    "labelIds.png": _DOWNLOADED,
    "labelTrainIds.png": _TRAIN_IDS,
}
"""The files of a picture's labels, by the ends of their names, and where they come from."""


def check_datasets(cfg: CfgNode, train: bool = True) -> None:
    """Refuses the data sets of a run that are bad, or that do not fit each other or the model.

    All processes of a run are to call it: the main one reads.

    Args:
        cfg: the whole configuration.
        train: whether there will be a training; else the training sets need not be on the disk.

    Raises:
        InputError: with the path, the entry or the class, and the remedy.
    """
    register_descriptions(cfg)
    number = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for name in (*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST):
        check_dataset(name, number)
    registered = [name for name in cfg.DATASETS.TRAIN if train or name in DatasetCatalog.list()]
    _check_same_classes([*registered, *cfg.DATASETS.TEST])
    for name in cfg.DATASETS.TEST:  # training sets are loaded before the first step anyway
        told_to_all(partial(_check_pictures, name, *_listed_pictures(name)))
    if not train:
        return
    _check_same_ignore_label(cfg.DATASETS.TRAIN)
    for name in cfg.DATASETS.TRAIN:
        metadata = MetadataCatalog.get(name)
        if _is_of_instances(metadata) and not check_instances(metadata.json_file).learnt:
            raise InputError(
                f"{metadata.json_file} of data set {name} has no annotation to learn, none "
                "that is no crowd; give the JSON with the annotations"
            )
        if cfg.INPUT.DATASET_MAPPER_NAME == "mask_former_semantic" and number > 1:
            told_to_all(partial(_check_supervision, name, number))


def check_dataset(name: str, num_classes: int | None = None) -> None:
    """Refuses a data set that is unknown, not on the disk, badly annotated, or of other classes.

    Args:
        name: as in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        num_classes: ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``; None compares no classes.

    Raises:
        InputError: with the path, the entry or the numbers, and the remedy.
    """
    check_name(name)
    if (row := registered_row(name)) is not None:
        refresh_paths(row)
    metadata = MetadataCatalog.get(name)
    is_cityscapes = str(metadata.get("evaluator_type")).startswith("cityscapes")
    if is_cityscapes:
        _check_cityscapes_panoptic(name, metadata)
    check_paths(name, {key: metadata.get(key) for key in _needed_paths(metadata)})
    if is_cityscapes:
        _check_cityscapes(name, metadata)
    _check_one_numbering(name, metadata)
    if metadata.get("panoptic_json"):
        check_panoptic(metadata.panoptic_json, *_categories(row, metadata))
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


def _categories(
    row: DescribedSet | None, metadata: Metadata
) -> tuple[Collection[int], Collection[int], Collection[int]]:
    """Things, stuff and what is ignored in a panoptic set's files; none where all may be there."""
    things = metadata.get("thing_dataset_id_to_contiguous_id", {})
    if row is None:
        return things, metadata.get("stuff_dataset_id_to_contiguous_id", {}), ()
    if row.description.ignores_rest:
        return (), (), ()
    classes, ignored = row.description.categories(), row.description.ignore
    found = {value for value, number in classes.items() if number in things.values()}
    return found, classes.keys() - found - {*ignored}, ignored


def _is_of_instances(metadata: Metadata) -> bool:
    return metadata.get("evaluator_type") == "coco" and bool(metadata.get("json_file"))


def _segmented_classes(metadata: Metadata) -> Sequence[str]:
    """All classes that are told apart; none where the metadata do not list them in one place."""
    kind = str(metadata.get("evaluator_type") or "")
    if kind == "coco":
        classes = metadata.get("thing_classes", ())
        is_described = classes and registered_row(metadata.name) is not None
        if is_described or not _is_of_instances(metadata):
            return classes
        found = check_instances(metadata.json_file).classes
        if classes and list(classes) != found:  # Detectron2's loader would set what it finds
            raise InputError(
                f"the categories of {metadata.json_file} are {_some(found)}, but the thing_classes "
                f"of data set {metadata.name} are {_some(classes)}; list the same, in the order of "
                "the ids, or leave thing_classes out"
            )
        return found
    stuff, things = (metadata.get(f"{each}_classes") or () for each in ("stuff", "thing"))
    if not kind:  # for training alone: both kinds, where there are both, would be ambiguous
        return (stuff or things) if not (stuff and things) or stuff == things else ()
    # In separated panoptic sets, stuff_classes are not all.
    return stuff if kind.endswith("sem_seg") or "label_divisor" in vars(metadata) else ()


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''} ({len(names)})"


def _check_same_classes(names: Sequence[str]) -> None:
    """Refuses data sets whose classes, or whose things, differ from the first one's."""
    first: dict[str, tuple[str, Sequence[str]]] = {}
    for name in dict.fromkeys(names):
        metadata = MetadataCatalog.get(name)
        classes = _segmented_classes(metadata)
        found = {"class": list(classes)}
        if str(metadata.get("evaluator_type")).endswith("panoptic_seg"):
            things = metadata.get("thing_dataset_id_to_contiguous_id", {}).values()
            found["kind of class"] = [
                "a thing" if number in things else "stuff" for number in range(len(classes))
            ]
        for what, values in found.items():
            if not values:
                continue
            other, expected = first.setdefault(what, (name, values))
            for number, (own, its) in enumerate(zip_longest(values, expected)):
                if _plain(own) != _plain(its):
                    raise InputError(
                        f"{what} {number} is {its or 'missing'} in data set {other}, but "
                        f"{own or 'missing'} in {name}; a model has one list of classes: register "
                        "both with the same, in one order"
                    )


def _check_same_ignore_label(names: Sequence[str]) -> None:
    """Refuses joined sets of which one ignores what is a class of the other's, or unknown."""
    labels = {name: MetadataCatalog.get(name).get("ignore_label") for name in names}
    labels = {name: label for name, label in labels.items() if label is not None}
    for name, label in labels.items():
        if label != labels[first := next(iter(labels))]:
            raise InputError(
                f"data set {first} has the ignore_label {labels[first]}, but {name}, which is to "
                f"be trained with it, {label}; give both the same, in their files, too"
            )


def _plain(name: str | None) -> str:
    return (name or "").strip().casefold()


def _check_one_numbering(name: str, metadata: Metadata) -> None:
    """Refuses Detectron2's separated sets, whose things and stuff are both counted from 0 or 1."""
    things = metadata.get("thing_dataset_id_to_contiguous_id", {})
    stuff = metadata.get("stuff_dataset_id_to_contiguous_id", {})
    shared = set(things.values()) & {stuff[each] for each in stuff.keys() - things.keys()}
    if shared and "panoptic" in str(metadata.get("evaluator_type")):
        raise InputError(
            f"data set {name} numbers its things and its stuff each on their own (Detectron2's "
            f"`_separated` way: {min(shared)} is one of both), but a model has one list of classes;"
            " name one that is registered with register_coco_panoptic, such as "
            f"{name.removesuffix('_separated')}"
        )


@contextmanager
def telling_assertions(*names: str) -> Iterator[None]:
    """Turns what a loader of data sets asserts, as Detectron2's do, into a sentence."""
    try:
        yield
    except AssertionError as error:
        raise InputError(
            f"data set {' or '.join(names)} cannot be loaded: its loader asserts "
            f"{str(error) or 'something'!r}; mend its files, or what it is registered with"
        ) from error


def _samples(name: str) -> list[dict[str, Any]]:
    """The samples of a data set, which must have some."""
    with telling_assertions(name):
        samples = DatasetCatalog.get(name)
    if not samples:
        raise InputError(f"data set {name} has no pictures; mend its files, or name another")
    return samples


def _listed_pictures(name: str) -> tuple[str, Sequence[Picture]]:
    """The JSON with which a data set is evaluated, and its pictures; if any."""
    metadata = MetadataCatalog.get(name)
    if path := metadata.get("panoptic_json"):
        return path, check_panoptic(path, *_categories(registered_row(name), metadata))
    if _is_of_instances(metadata):
        return metadata.json_file, check_instances(metadata.json_file).pictures
    return "", ()


def _check_pictures(name: str, path: str, listed: Sequence[Picture]) -> None:
    """Refuses a test set that cannot be loaded, or has other pictures than its JSON."""
    samples = _samples(name)
    if path:
        check_pictures(name, samples, path, listed)


def check_pictures(
    name: str, samples: Sequence[dict[str, Any]], path: str, listed: Sequence[Picture]
) -> None:
    """Refuses samples whose pictures are not those of the JSON that they will be compared with.

    Args:
        name: of the data set.
        samples: told apart by ``image_id``, or else by the path below the data set's folder.
        path: the JSON.
        listed: its pictures.
    """
    metadata = MetadataCatalog.get(name)
    found = Counter(
        picture_id(sample["image_id"])
        if "image_id" in sample
        else path_below_root(metadata, sample["file_name"])
        for sample in samples
    )
    known = {each for picture in listed for each in picture}
    faults = {
        "more than one picture in the data set": [each for each, n in found.items() if n > 1],
        f"no entry in {path}": [each for each in found if each not in known],
        "no picture in the data set": [p[0] for p in listed if not found.keys() & set(p)],
    }
    for fault, identities in faults.items():
        if identities:
            raise InputError(
                f"{len(identities)} image ids of data set {name}, such as {identities[0]!r}, have "
                f"{fault}; its pictures and those of {path} must be the same"
            )


def _check_supervision(name: str, num_classes: int) -> None:
    """Refuses a semantic set whose label maps have one class alone, or none, beside the ignored.

    Of most data sets it reads one map or two.
    """
    labelled = [sample for sample in _samples(name) if "sem_seg_file_name" in sample]
    files = [(sample["sem_seg_file_name"], sample.get("label_values")) for sample in labelled]
    ignored = MetadataCatalog.get(name).get("ignore_label")
    seen: set[int] = set()
    for file, values in (*files[:: max(1, len(files) // _SAMPLED)], *files):
        labels = read_label_map(file, num_classes, ignored, values)
        seen |= set(np.unique(labels).tolist()) - {ignored}
        if len(seen) > 1:
            return
    if files:
        only = f"class {seen.pop()} alone" if seen else "no class"
        raise InputError(
            f"the {len(files)} label maps of data set {name}, such as {files[0][0]}, have {only} "
            f"beside the ignored label {ignored}: nothing could be learnt; if {ignored} stands for "
            "a class, as in masks of 0 and 255, give that class an id of its own in the files"
        )


def _check_cityscapes_panoptic(name: str, metadata: Metadata) -> None:
    path = metadata.get("panoptic_json")
    if path and os.path.isdir(metadata.gt_dir) and not os.path.isfile(path):
        root = Path(metadata.gt_dir).parent.parent
        raise InputError(
            f"data set {name} needs {path}; make it with `CITYSCAPES_DATASET={root} "
            "csCreatePanopticImgs`, of the package cityscapesscripts"
        )


def _check_cityscapes(name: str, metadata: Metadata) -> None:
    """Refuses folders in which Detectron2's loaders would stumble over a file or miss one."""
    labels, end = Path(metadata.gt_dir), "leftImg8bit.png"
    stems = []
    for city in sorted(Path(metadata.get("image_dir") or metadata.image_root).iterdir()):
        for file in sorted(city.iterdir()) if city.is_dir() else [city]:
            if not file.name.endswith(f"_{end}"):
                raise InputError(
                    f"{file} is none of the pictures CITY/*_{end} of data set {name}; take it away"
                )
            stems.append(labels / city.name / f"{file.name.removesuffix(end)}gtFine_")
    for suffix, remedy in _CITYSCAPES.items():
        if suffix == "labelTrainIds.png" and metadata.evaluator_type == "cityscapes_instance":
            continue
        files = [f"{stem}{suffix}" for stem in stems]
        if missing := [file for file in files if not os.path.isfile(file)]:
            raise InputError(
                f"data set {name} needs {missing[0]}, which does not exist ({len(missing)} of "
                f"{len(files)} are missing); {remedy.format(root=labels.parent.parent)}, of the "
                "package cityscapesscripts"
            )


def _check_num_classes(name: str, found: int, num_classes: int) -> None:
    if found != num_classes:
        raise InputError(
            f"data set {name} has {found} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
            f"{num_classes}; set it to {found}, or choose another data set"
        )
