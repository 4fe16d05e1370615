#!/usr/bin/env python
"""Prepares COCO-Stuff-10K, annotations v1.0 (v1.1 numbers the classes otherwise).

Reads    $DETECTRON2_DATASETS/coco/coco_stuff_10k/imageLists/{test,train}.txt, images/*.jpg and
         annotations/*.mat
Writes   images_detectron2/{test,train}/*.jpg and annotations_detectron2/{test,train}/*.png there

Labels are 0 to 170; 255 ("unlabeled") is ignored. Needs h5py. Run it again after an interruption:
what is finished is kept.
"""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mask_former.d2.data import preparing
from mask_former.d2.data.reading import naming
from mask_former.d2.errors import InputError

RELEASED = {"test": 1000, "train": 9000}
NUM_CLASSES, IGNORE_LABEL = 171, 255
UNLABELED = 1  # in the .mat files, where the classes follow from 2 on


class Sample(NamedTuple):
    """An image and its label map, as downloaded and as prepared."""

    image: Path
    annotation: Path
    target_image: Path
    target_labels: Path


def require_h5py() -> None:
    """Returns when h5py can be used.

    Raises:
        InputError: it is not installed.
    """
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise InputError(
            "reading the .mat files of COCO-Stuff needs h5py; run `pip install h5py`"
        ) from error


def read_labels(path: Path) -> np.ndarray:
    """Classes [H, W], uint8, of a .mat file, which MATLAB wrote column by column.

    Raises:
        InputError: it is missing, broken, or not of v1.0.
    """
    import h5py

    with naming(str(path), "annotation"), h5py.File(path, "r") as file:
        stored = np.asarray(file["S"])
    highest = UNLABELED + NUM_CLASSES
    if stored.ndim != 2 or stored.min() < UNLABELED or stored.max() > highest:
        raise InputError(
            f"annotation {path} has labels {stored.min()} to {stored.max()} in the shape "
            f"{stored.shape}, but a map of {UNLABELED} to {highest} is expected; get the "
            "annotations of COCO-Stuff-10K v1.0"
        )
    # 1 wraps around to 255
    return np.ascontiguousarray(stored.astype(np.uint8).T - np.uint8(UNLABELED + 1))


def convert(sample: Sample) -> None:
    """Writes the image and the label map of one sample."""
    preparing.save(read_labels(sample.annotation), sample.target_labels, "PNG")
    with preparing.replacing(sample.target_image) as temporary:
        shutil.copyfile(sample.image, temporary)


def prepare_one(sample: Sample) -> None:
    """Makes the files of one sample, unless they are there and right."""
    size = preparing.image_size(sample.image)
    preparing.write_unless_good(partial(convert, sample), partial(_check, sample, size))


def _check(sample: Sample, size: preparing.Size) -> None:
    preparing.check_image(sample.target_image, size)
    made_from = sample.annotation
    expected = read_labels(made_from)
    preparing.check_labels(
        sample.target_labels, made_from, expected, size, NUM_CLASSES, IGNORE_LABEL
    )


def read_names(path: Path) -> list[str]:
    """The stems of a split's images.

    Raises:
        InputError: the list is missing or empty.
    """
    with naming(str(path), "image list"):
        names = path.read_text(encoding="utf-8").split()
    if not names:
        raise InputError(f"image list {path} is empty; unpack COCO-Stuff-10K again")
    return names


def prepare_split(root: Path, split: str, workers: int) -> None:
    """Makes and verifies the files of a split."""
    names = read_names(root / "imageLists" / f"{split}.txt")
    images, labels = (root / f"{kind}_detectron2" / split for kind in ("images", "annotations"))
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    items = [
        Sample(
            root / "images" / f"{name}.jpg",
            root / "annotations" / f"{name}.mat",
            images / f"{name}.jpg",
            labels / f"{name}.png",
        )
        for name in names
    ]
    preparing.in_parallel(prepare_one, items, workers, split)
    for folder, suffix in ((images, "jpg"), (labels, "png")):
        preparing.check_folder(folder, {f"{name}.{suffix}" for name in names})
        preparing.report(folder, len(names), RELEASED[split])


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, prepares, and says what was written."""
    args = preparing.parser(__doc__).parse_args(argv)
    with preparing.telling_errors():
        require_h5py()
        root = preparing.source("coco", "coco_stuff_10k")
        for split in RELEASED:
            prepare_split(root, split, args.workers)


if __name__ == "__main__":
    main()
