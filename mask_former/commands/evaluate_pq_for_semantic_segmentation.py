r"""Panoptic quality of semantic predictions: every class in a picture is one segment.

    mask_former evaluate-pq --dataset-name ade20k_sem_seg_val \
        --json-file output/inference/sem_seg_predictions.json

The file is the one that `mask_former train --eval-only` writes. Only images in it count.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util
from tabulate import tabulate
from tqdm import tqdm

from ..d2.command_line.importing import add_import_argument, import_code
from ..d2.data.checks import check_dataset
from ..d2.data.datasets import register_all, register_descriptions
from ..d2.data.entries import check_segmentation
from ..d2.data.json_files import read_json
from ..d2.data.preparing import telling_errors
from ..d2.data.reading import as_displayed, picture_size, read_label_map
from ..d2.errors import InputError

MIN_IOU = 0.5  # a segment is found if its IoU is above this
MAX_VOID = 0.5  # a prediction with a larger share of void is not held against the model


class Classes(NamedTuple):
    """What the metadata of a data set say about its classes."""

    number: int
    """K"""
    ignore_label: int
    contiguous: Mapping[int, int]
    """From the ids in prediction files to 0..K-1."""

    @classmethod
    def of(cls, dataset_name: str) -> "Classes":
        """Those of a registered data set."""
        metadata = MetadataCatalog.get(dataset_name)
        for key in ("stuff_classes", "ignore_label"):
            if metadata.get(key) is None:
                raise InputError(
                    f"the metadata of data set {dataset_name} have no {key}; set it where the data "
                    "set is registered"
                )
        number = len(metadata.stuff_classes)
        same = {i: i for i in range(number)}
        contiguous = metadata.get("stuff_dataset_id_to_contiguous_id", same)
        return cls(number, metadata.ignore_label, contiguous)


class Quality(NamedTuple):
    """Panoptic quality and its factors, in 0..1, and the number of classes that they average."""

    pq: float
    sq: float
    rq: float
    classes: int


class SegmentCounts:
    """Counts of segments over all pictures, and the confusion of pixels for the mIoU."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.iou = np.zeros(num_classes)
        self.found, self.wrong, self.missed = np.zeros((3, num_classes), np.int64)
        self.confusion = np.zeros((num_classes + 1, num_classes), np.int64)

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Counts a picture.

        Args:
            truth: [H, W]; classes 0..K-1, K is void.
            predicted: [H, W]; classes 0..K-1.
        """
        confusion = np.bincount(
            truth.ravel() * self.num_classes + predicted.ravel(), minlength=self.confusion.size
        ).reshape(self.confusion.shape)  # [K + 1, K]
        void = confusion[-1]
        common = confusion.diagonal()
        truth_area, area = confusion[:-1].sum(axis=1), confusion.sum(axis=0)
        union = truth_area + area - common - void
        iou = common / np.maximum(union, 1)
        found = iou > MIN_IOU
        self.iou += np.where(found, iou, 0)
        self.found += found
        self.missed += (truth_area > 0) & ~found
        self.wrong += (area > 0) & ~found & (void <= MAX_VOID * area)
        self.confusion += confusion

    def quality(self) -> Quality:
        """Averages over the classes that occur."""
        segments = self.found + 0.5 * self.wrong + 0.5 * self.missed
        occur = segments > 0
        if not occur.any():
            return Quality(0.0, 0.0, 0.0, 0)
        segments, iou, found = segments[occur], self.iou[occur], self.found[occur]
        return Quality(
            pq=float((iou / segments).mean()),
            sq=float((iou / np.maximum(found, 1)).mean()),
            rq=float((found / segments).mean()),
            classes=int(occur.sum()),
        )

    def mean_iou(self) -> float:
        """In 0..1, over the classes in truth or prediction, as Detectron2 0.6 averages it."""
        seen = self.confusion[:-1]
        common = seen.diagonal()
        union = seen.sum(axis=0) + seen.sum(axis=1) - common
        occur = union > 0
        return float((common[occur] / union[occur]).mean()) if occur.any() else 0.0


def read_predictions(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The entries of a prediction file by the file name of their image.

    Raises:
        InputError: the file is missing, no such file, or empty.
    """
    entries = read_json(str(path), "prediction file")
    if not entries:
        raise InputError(f"prediction file {path} has no predictions; evaluate the model again")
    predictions = defaultdict(list)
    for entry in entries if isinstance(entries, list) else [entries]:
        if not is_prediction(entry):
            raise InputError(
                f"prediction file {path} has {str(entry)[:100]} where a map of file_name, "
                "category_id and segmentation (size and counts) is expected; give the "
                "sem_seg_predictions.json of an evaluation"
            )
        predictions[entry["file_name"]].append(entry)
    return predictions


def is_prediction(entry: Any) -> bool:
    """Whether it is what Detectron2's ``SemSegEvaluator`` writes for a class of an image."""
    match entry:
        case {
            "file_name": str(),
            "category_id": int(),
            "segmentation": {"size": [int(), int()], "counts": str()},
        }:
            return True
    return False


def match_pictures(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Tells which picture of a data set each name stands for, also in another machine's folders.

    It is the one whose path ends like the name for the longest, without the suffix; names of which
    no picture has the stem are left out.

    Args:
        names: paths in a file of predictions.
        known: paths of the data set's pictures.

    Raises:
        InputError: two pictures fit a name equally well, or two names fit one picture.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for path in known:
        by_stem[path_parts(path)[0]].append(path)
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name in names:
        parts = path_parts(name)
        candidates = by_stem.get(parts[0], [])
        common = [common_length(parts, path_parts(path)) for path in candidates]
        best = [path for path, n in zip(candidates, common, strict=True) if n == max(common)]
        if not best:
            continue
        other = owners.setdefault(best[0], name)
        if len(best) > 1 or other != name:
            raise InputError(
                f"the predictions of {name} "
                + (
                    f"fit {best[0]} and {best[1]}"
                    if len(best) > 1
                    else f"and {other} fit {best[0]}"
                )
                + " equally well; give predictions whose paths tell the pictures apart as the data "
                "set's folders do"
            )
        found[name] = best[0]
    return found


def path_parts(path: str) -> list[str]:
    """The stem of a file, its folder, the folder of that, and so on; of any system's path."""
    *folders, name = path.replace("\\", "/").split("/")
    return [Path(name).stem, *reversed(folders)]


def common_length(parts: Sequence[str], others: Sequence[str]) -> int:
    """How many of the first parts are equal."""
    equal = [one == other for one, other in zip(parts, others, strict=False)]
    return [*equal, False].index(False)


def paint(
    entries: Iterable[dict[str, Any]], shape: tuple[int, int], classes: Classes, image: str
) -> np.ndarray:
    """The predicted classes [H, W] of an image; 0 where nothing is predicted.

    Raises:
        InputError: an entry has an unknown class or another size.
    """
    predicted = np.zeros(shape, np.int64)
    for entry in entries:
        category = entry["category_id"]
        if category not in classes.contiguous:
            raise InputError(
                f"the predictions of image {image} have category_id {category}, which the data set "
                "does not know; give the data set that was evaluated as --dataset-name"
            )
        if tuple(entry["segmentation"]["size"]) != shape:
            raise InputError(
                f"the predictions of image {image} have height and width "
                f"{entry['segmentation']['size']}, but its labels {list(shape)}; give the data set "
                "that was evaluated, prepared as it was then"
            )
        check_segmentation(f"the prediction of image {image}", entry["segmentation"], shape)
        predicted[mask_util.decode(entry["segmentation"]).astype(bool)] = classes.contiguous[
            category
        ]
    return predicted


def evaluate(dataset_name: str, json_file: Path) -> SegmentCounts:
    """Counts over all images that are in the data set and in the file.

    Raises:
        InputError: there are none, or a file is bad.
    """
    register_all()
    check_dataset(dataset_name)
    classes = Classes.of(dataset_name)
    samples = {sample["file_name"]: sample for sample in _samples(dataset_name)}
    predictions = read_predictions(json_file)
    common = match_pictures(predictions, samples)
    if not common:
        raise InputError(
            f"no image of {json_file} is in {dataset_name}; give the data set that was evaluated"
        )
    counts = SegmentCounts(classes.number)
    for name, picture in tqdm(common.items(), unit="image"):
        label_file = samples[picture]["sem_seg_file_name"]
        values = samples[picture].get("label_values")
        truth = read_label_map(label_file, classes.number, classes.ignore_label, values)
        image = np.empty(picture_size(picture), bool)  # only its size counts
        truth = as_displayed(label_file, truth, picture, image)
        height, width = truth.shape
        truth = np.where(truth == classes.ignore_label, classes.number, truth.astype(np.int64))
        counts.add(truth, paint(predictions[name], (height, width), classes, name))
    return counts


def _samples(dataset_name: str) -> list[dict[str, Any]]:
    samples = DatasetCatalog.get(dataset_name)
    if not all("sem_seg_file_name" in sample for sample in samples) or not samples:
        raise InputError(f"data set {dataset_name} has no semantic labels; give one that has")
    return samples


def table(quality: Quality) -> str:
    """In per cent. All and Stuff are the same here: every segment is a class."""
    percent = [f"{100 * value:.1f}" for value in quality[:3]]
    rows = [[name, *percent, quality.classes] for name in ("All", "Stuff")]
    headers = ["", "PQ", "SQ", "RQ", "N"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and the mIoU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset-name",
        default="ade20k_sem_seg_val",
        help="any with semantic labels, such as ade20k_full_sem_seg_val and "
        "coco_2017_test_stuff_10k_sem_seg (default: %(default)s)",
    )
    parser.add_argument("--json-file", type=Path, required=True, help="sem_seg_predictions.json")
    parser.add_argument(
        "--description",
        action="append",
        default=[],
        metavar="FILE",
        help="the dataset.yaml of a data set of your own; may be given several times",
    )
    add_import_argument(parser)
    args = parser.parse_args(argv)
    with telling_errors():
        import_code(args.imports)
        register_descriptions(CfgNode({"DATASETS": {"DESCRIPTIONS": args.description}}))
        counts = evaluate(args.dataset_name, args.json_file)
    print(table(counts.quality()))
    print(f"mIoU: {100 * counts.mean_iou():.1f}")
