#!/usr/bin/env python
"""Prepares ADE20K-Full, release 2021_17_01, with its 847 classes.

Reads    $DETECTRON2_DATASETS/ADE20K_2021_17_01/index_ade20k.pkl and the images/ that it lists
Writes   images_detectron2/{training,validation}/*.jpg and annotations_detectron2/.../*.tif there

Images and labels with a shorter side above 512 pixels are resized to 512. Labels are 0 to 846;
65535 is ignored. Run it again after an interruption: what is finished is kept.
"""

import pickle
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mask_former.d2.data import preparing
from mask_former.d2.data.datasets import read_categories
from mask_former.d2.data.reading import naming
from mask_former.d2.errors import InputError

ROOT = "ADE20K_2021_17_01"
RELEASED = {"training": 25574, "validation": 2000}
NUM_CLASSES, IGNORE_LABEL = 847, 65535
MAX_SHORTER_SIDE = 512
KINDS = ("images_detectron2", "annotations_detectron2")


class Sample(NamedTuple):
    """An image and its label map, as downloaded and as prepared."""

    image: Path
    segmentation: Path
    target_image: Path
    target_labels: Path


class _StandIn:
    """Takes the place of any object in a pickle, and does nothing with what it is given."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, strings and the like; no code of the file or of a library runs for the rest."""

    def find_class(self, module: str, name: str) -> Any:
        return _StandIn


def read_index(path: Path) -> list[tuple[str, str]]:
    """Folder, below the root of the data sets, and file name of each image.

    Raises:
        InputError: the file is missing or no index.
    """
    with naming(str(path), "index"), open(path, "rb") as file:
        try:
            index = _PlainUnpickler(file).load()
        except (pickle.UnpicklingError, AttributeError, IndexError, TypeError) as error:
            raise ValueError(str(error)) from error
    keys = ("folder", "filename")
    lists: list[Any] = [index.get(key) for key in keys] if isinstance(index, dict) else [None]
    if not all(_is_strings(entries) for entries in lists) or len(lists[0]) != len(lists[1]):
        raise InputError(
            f"index {path} has no two equally long lists of strings folder and filename; it is not "
            f"that of {ROOT}: unpack that release again"
        )
    return list(zip(*lists, strict=True))


def _is_strings(entries: object) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)


def split_of(file_name: str) -> str:
    """ADE_val_00000001.jpg belongs to validation, all other names to training."""
    return "validation" if file_name.split("_")[1:2] == ["val"] else "training"


def samples(root: Path) -> list[Sample]:
    """All images that the index lists."""
    listed = read_index(root / "index_ade20k.pkl")
    if wrong := [name for _, name in listed if not _is_plain_jpg(name)]:
        raise InputError(
            f"index {root / 'index_ade20k.pkl'} lists {wrong[0]!r}, which is no name of a .jpg "
            f"file; unpack {ROOT} again"
        )
    return [_sample(root, root.parent / folder, name) for folder, name in listed]


def _is_plain_jpg(name: str) -> bool:
    return Path(name).name == name and name.endswith(".jpg")


def _sample(root: Path, folder: Path, name: str) -> Sample:
    split, stem = split_of(name), name.removesuffix(".jpg")
    return Sample(
        folder / name,
        folder / f"{stem}_seg.png",
        root / "images_detectron2" / split / name,
        root / "annotations_detectron2" / split / f"{stem}.tif",
    )


@cache
def train_ids() -> np.ndarray:
    """The class of every object index, uint16; 65535 for those of no class."""
    table = np.full(26 * 256, IGNORE_LABEL, np.uint16)
    for entry in read_categories("ade20k_full_847"):
        table[entry["object_index"]] = entry["id"]
    return table


def read_labels(path: Path) -> np.ndarray:
    """Classes [H, W], uint16, of a ``_seg.png``: red / 10 and green hold the object index.

    Raises:
        InputError: it is missing, broken or not in colours.
    """
    colors = preparing.read(path, "label map")
    if colors.ndim != 3 or colors.dtype != np.uint8:
        raise InputError(f"label map {path} is not in colours; unpack {ROOT} again")
    red, green = colors[..., 0].astype(np.int32), colors[..., 1]
    return train_ids()[red // 10 * 256 + green]


def prepared_size(size: preparing.Size) -> preparing.Size:
    """Width and height after the shorter side is limited."""
    shorter, longer = min(size), max(size)
    if shorter <= MAX_SHORTER_SIDE:
        return size
    longer = round(longer / shorter * MAX_SHORTER_SIDE)
    return (MAX_SHORTER_SIDE, longer) if size[0] == shorter else (longer, MAX_SHORTER_SIDE)


def resized(values: np.ndarray, size: preparing.Size, interpolation: int) -> np.ndarray:
    """[H, W] or [H, W, 3] in another size; what has the size already stays as it is."""
    if (values.shape[1], values.shape[0]) == size:
        return values
    return cv2.resize(values, size, interpolation=interpolation)


def convert(sample: Sample) -> None:
    """Writes the image and the label map of one sample.

    Raises:
        InputError: a file is missing, broken, or the two differ in size.
    """
    image, labels = preparing.read_rgb(sample.image), read_labels(sample.segmentation)
    height, width = image.shape[:2]
    preparing.check_size(sample.segmentation, (labels.shape[1], labels.shape[0]), (width, height))
    size = prepared_size((width, height))
    preparing.save(resized(labels, size, cv2.INTER_NEAREST), sample.target_labels, "TIFF")
    preparing.save(resized(image, size, cv2.INTER_LINEAR), sample.target_image, "JPEG")


def prepare_one(sample: Sample) -> None:
    """Makes the files of one sample, unless they are there and right."""
    size = prepared_size(preparing.image_size(sample.image))
    preparing.write_unless_good(partial(convert, sample), partial(_check, sample, size))


def _check(sample: Sample, size: preparing.Size) -> None:
    preparing.check_image(sample.target_image, size)
    made_from = sample.segmentation
    expected = resized(read_labels(made_from), size, cv2.INTER_NEAREST)
    preparing.check_labels(
        sample.target_labels, made_from, expected, size, NUM_CLASSES, IGNORE_LABEL
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, prepares, and says what was written."""
    args = preparing.parser(__doc__).parse_args(argv)
    with preparing.telling_errors():
        root = preparing.source(ROOT)
        if not (items := samples(root)):
            raise InputError(f"index {root / 'index_ade20k.pkl'} is empty; unpack {ROOT} again")
        counts = Counter(split_of(item.image.name) for item in items)
        folders = [root / kind / split for kind in KINDS for split in counts]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        preparing.in_parallel(prepare_one, items, args.workers, "images")
        targets = [path for item in items for path in (item.target_image, item.target_labels)]
        for folder in folders:
            preparing.check_folder(folder, {path.name for path in targets if path.parent == folder})
            preparing.report(folder, counts[folder.name], RELEASED[folder.name])


if __name__ == "__main__":
    main()
