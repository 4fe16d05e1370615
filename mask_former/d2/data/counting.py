"""The numbers of a split of a data set: classes, sizes, segments in a picture."""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median_low
from typing import NamedTuple

import numpy as np

from .datasets import DescribedSet
from .description import Description
from .examination import Record, Sample

Size = tuple[int, int]
"""Height and width."""


class ReadSplit(NamedTuple):
    """A split whose files have been read."""

    row: DescribedSet
    samples: list[Sample]
    records: list[Record]
    """What was found in the files of each sample."""
    problems: list[tuple[str, str]]
    """Kinds of findings and sentences about the split as a whole."""


class ClassCount(NamedTuple):
    """How much of a class a split has."""

    pixels: int
    pictures: int
    segments: int
    """Of a semantic label map, one in each picture that has the class; crowds are none."""


class Spread(NamedTuple):
    """A number that differs from picture to picture."""

    minimum: int
    median: int
    maximum: int


class SegmentsPerPicture(NamedTuple):
    """How many segments a picture has: classes of a label map, or what is no crowd."""

    mean: float
    percentile_95: int
    """Nineteen of twenty pictures have no more."""
    maximum: int


class SplitSurvey(NamedTuple):
    """The numbers of a split; those that would need a picture or a label are None without any."""

    name: str
    pictures: int
    readable: int
    labelled: int
    """Pictures whose labels can be read."""
    classes: tuple[ClassCount, ...]
    unlabelled: float | None
    """The share of pixels, of pictures with labels, that belong to no class and to no segment."""
    heights: Spread | None
    widths: Spread | None
    most_common_size: Size | None
    segments: SegmentsPerPicture | None
    kinds: dict[str, int]
    """How many pictures there are of each format, mode and depth; the most frequent come first."""


class Contents(NamedTuple):
    """What the labels of a picture hold."""

    segments: list[tuple[int, int]]
    """The class and the pixels of each."""
    labelled: int
    """Pixels of any of them."""
    size: int
    """All pixels."""
    unlisted: list[int]
    """Values of a label map that stand for nothing."""


def contents(record: Record, label_of: Callable[[int], int | None], classes: int) -> Contents:
    """What the labels of a picture hold, in the classes of a description.

    Args:
        record: with ``labels``.
        label_of: see ``labels_of_values``.
        classes: K.
    """
    labels = record["labels"]
    if "segments" in labels:
        found = [(category, pixels) for category, pixels, crowd in labels["segments"] if not crowd]
        labelled = labels.get("labelled", sum(pixels for _, pixels in found))
        return Contents(found, labelled, labels["size"], [])
    pixels_of: Counter[int] = Counter()
    unlisted = []
    for value, pixels in labels["values"]:
        label = label_of(value)
        if label is None:
            unlisted.append(value)
        elif label < classes:
            pixels_of[label] += pixels
    return Contents(sorted(pixels_of.items()), pixels_of.total(), labels["size"], unlisted)


def labels_of_values(description: Description) -> Callable[[int], int | None]:
    """Tells the class or the ignore label of a value of a label map; None where it is unlisted."""
    values = description.label_values()
    if values is None:
        labels = [*range(len(description.classes)), description.ignore_label]
        return {label: label for label in labels}.get
    table = dict(values.labels)
    return lambda value: table.get(value, values.rest)


def count_split(split: ReadSplit) -> SplitSurvey:
    """The numbers of a split, whatever the order of its samples."""
    description = split.row.description
    number, label_of = len(description.classes), labels_of_values(description)
    totals = np.zeros((number, 3), np.int64)
    per_picture, labelled, size = [], 0, 0
    for record in split.records:
        if "labels" not in record:
            continue
        found = contents(record, label_of, number)
        for category, pixels in found.segments:
            totals[category] += (pixels, 0, 1)
        totals[sorted({category for category, _ in found.segments}), 1] += 1
        per_picture.append(len(found.segments))
        labelled += found.labelled
        size += found.size
    pictures = [record["picture"] for record in split.records if "picture" in record]
    sizes = sorted(tuple(picture["size"]) for picture in pictures)
    kinds = Counter(sorted(picture["kind"] for picture in pictures))
    return SplitSurvey(
        name=split.row.name,
        pictures=len(split.records),
        readable=len(pictures),
        labelled=len(per_picture),
        classes=tuple(ClassCount(*row) for row in totals.tolist()),
        unlabelled=1 - labelled / size if size else None,
        heights=_spread([height for height, _ in sizes]),
        widths=_spread([width for _, width in sizes]),
        most_common_size=Counter(sizes).most_common(1)[0][0] if sizes else None,
        segments=_segments(per_picture),
        kinds=dict(kinds.most_common()),
    )


def _spread(numbers: Sequence[int]) -> Spread | None:
    return Spread(min(numbers), median_low(numbers), max(numbers)) if numbers else None


def _segments(numbers: Sequence[int]) -> SegmentsPerPicture | None:
    if not numbers:
        return None
    most = int(np.percentile(numbers, 95, method="higher"))
    return SegmentsPerPicture(sum(numbers) / len(numbers), most, max(numbers))
