#!/usr/bin/env python
"""Prepares the semantic label maps of ADE20K (SceneParse150).

Reads    $DETECTRON2_DATASETS/ADEChallengeData2016/annotations/{training,validation}/*.png
Writes   $DETECTRON2_DATASETS/ADEChallengeData2016/annotations_detectron2/, the same names

0 ("other") becomes 255, which is ignored; 1 to 150 become 0 to 149. Run it again after an
interruption: what is finished is kept.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mask_former.d2.data import preparing

RELEASED = {"training": 20210, "validation": 2000}
NUM_CLASSES, IGNORE_LABEL = 150, 255


class LabelMap(NamedTuple):
    """A file to make."""

    source: Path
    target: Path
    image: Path


def read_labels(path: Path) -> np.ndarray:
    """Classes [H, W], uint8: ids one lower, with 0 become 255.

    Raises:
        InputError: the file is missing, broken or no map of bytes.
    """
    return preparing.read_indices(path) - np.uint8(1)


def convert(input: str | Path, output: str | Path) -> None:
    """Writes the label map of one downloaded file."""
    preparing.save(read_labels(Path(input)), Path(output), "PNG")


def prepare_one(item: LabelMap) -> None:
    """Makes one file, unless it is there and right."""
    sized_by = item.image if item.image.exists() else item.source
    size = preparing.image_size(sized_by)
    check = partial(
        preparing.check_labels,
        item.target,
        item.source,
        read_labels(item.source),
        size,
        NUM_CLASSES,
        IGNORE_LABEL,
    )
    preparing.write_unless_good(partial(convert, item.source, item.target), check)


def prepare_split(root: Path, split: str, workers: int) -> None:
    """Makes and verifies the label maps of a split."""
    sources = preparing.files_of(root / "annotations" / split, "*.png")
    target = root / "annotations_detectron2" / split
    target.mkdir(parents=True, exist_ok=True)
    images = root / "images" / split
    items = [LabelMap(path, target / path.name, images / f"{path.stem}.jpg") for path in sources]
    preparing.in_parallel(prepare_one, items, workers, split)
    preparing.check_folder(target, {path.name for path in sources})
    preparing.report(target, len(items), RELEASED[split])


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, prepares, and says what was written."""
    args = preparing.parser(__doc__).parse_args(argv)
    with preparing.telling_errors():
        root = preparing.source("ADEChallengeData2016")
        for split in preparing.present_splits(root / "annotations", RELEASED):
            prepare_split(root, split, args.workers)


if __name__ == "__main__":
    main()
