"""What is wrong with a data set whose files have been read, and how to mend it."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .counting import ReadSplit, SplitSurvey, contents, labels_of_values
from .description import Description
from .reading import listed, unpack_color

_EXAMPLES = 5
_SMALL = 32  # pixels of the shorter side
_LARGE = 4096 * 4096  # pixels
_EDGES = 0.8  # share of the pixels of a class that is no more than an edge between others


class _Kind(NamedTuple):
    is_error: bool
    what: str
    remedy: str


_KINDS = {
    "split": _Kind(
        True,
        "splits that cannot be used as they are described",
        "mend the description or the files, as the sentence says",
    ),
    "picture": _Kind(
        True,
        "pictures that cannot be read",
        "replace them, or take them out of the data set",
    ),
    "mode": _Kind(
        True,
        "pictures whose values have no known range",
        "convert them to 8 or 16 bits a channel",
    ),
    "labels": _Kind(
        True,
        "label files that cannot be read",
        "replace them, or take them out of the data set together with their pictures",
    ),
    "jpeg": _Kind(
        True,
        "label maps in JPEG or WebP, which change values at every edge",
        "export the labels again, as PNG",
    ),
    "many_values": _Kind(
        True,
        "label maps with so many values that they must be pictures, or smoothed at their edges",
        "give the label maps themselves; resize them without interpolation only",
    ),
    "unlisted": _Kind(
        True,
        "label maps with values that the description does not list",
        "add the values to a class or to `ignore`, or set `background: ignore`",
    ),
    "size": _Kind(
        True,
        "labels that have another size than their picture",
        "restore the file that was resized, or mend the annotation",
    ),
    "exif_stored": _Kind(
        True,
        "annotations of pictures as they are stored, not as EXIF rotation displays them",
        "turn the annotations, or write the pictures anew in their stored orientation, without "
        "EXIF",
    ),
    "annotations": _Kind(
        True,
        "pictures whose annotations training or evaluation refuses",
        "mend the annotation that the sentence names, or take it out",
    ),
    "category": _Kind(
        True,
        "categories that the description does not list",
        "add them to the values of a class or to `ignore`, or set `background: ignore`",
    ),
    "things": _Kind(
        True,
        "categories that are a thing in the JSON and stuff in the description, or the other way",
        "mend `thing` of the class, or isthing in the JSON",
    ),
    "one_class": _Kind(
        True,
        "training sets in which one class alone is ever supervised",
        "nothing can be learnt from it: of masks of 0 and 255, list 255 among the values of a "
        "class instead of `ignore`; if only objects are labelled, set `background: class`",
    ),
    "smoothed": _Kind(
        True,
        "classes that are edges alone, as in label maps that were smoothed when they were resized",
        "resize label maps to the nearest value, or list these values in `ignore`",
    ),
    "nothing": _Kind(
        True,
        "training sets in which nothing is supervised: all is ignored, or a crowd",
        "take values out of `ignore`, or name a split with labels that can be learnt",
    ),
    "exif": _Kind(
        False,
        "label maps of pictures as they are stored, not as EXIF rotation displays them",
        "nothing needs to be done: they are turned as their pictures are",
    ),
    "exif_unclear": _Kind(
        False,
        "pictures that EXIF mirrors or turns without a change of size",
        "labels are taken to be drawn on the picture as it is displayed; see whether they are",
    ),
    "bare": _Kind(
        False,
        "pictures without labels, which are left out",
        "add their labels, or take them away",
    ),
    "orphans": _Kind(
        False,
        "label files without a picture, which are left out",
        "add their pictures, or take them away",
    ),
    "no_pixel": _Kind(
        False,
        "pictures with annotations that have no pixel, which are left out",
        "give these annotations a mask, or take them out",
    ),
    "empty": _Kind(
        False,
        "pictures without a pixel that belongs to a class",
        "nothing is learnt from them: label them, or take them out",
    ),
    "never": _Kind(
        False,
        "classes that no label has",
        "take them out of the description, or see whether their values are right",
    ),
    "several": _Kind(
        False,
        "panoptic maps in which a stuff class has several segments",
        "a model gives stuff one segment in a picture: merge them in the files, or set `thing: "
        "true`",
    ),
    "twice": _Kind(
        False,
        "pictures that are identical in two splits",
        "take them out of one: results on pictures that were trained on are too good",
    ),
    "flat": _Kind(False, "pictures of one colour", "see whether their content has been lost"),
    "small": _Kind(
        False,
        f"pictures whose shorter side has less than {_SMALL} pixels",
        "enlarge them, or take them out",
    ),
    "large": _Kind(
        False,
        f"pictures of more than {_LARGE // 10**6} million pixels",
        "cut or shrink them, together with their labels: each is decoded whole for every crop",
    ),
}
_ABSENT = "classes that occur elsewhere, but not in "
_ABSENT_TRAIN = "they cannot be learnt: divide the pictures anew, or take them out"
_ABSENT_OTHER = "they are not evaluated there: divide the pictures anew, or accept it"


class Finding(NamedTuple):
    """One thing that is wrong with a data set, and all places in which it is."""

    kind: str
    is_error: bool
    """Whether nothing may be trained before it is mended."""
    what: str
    """A noun in the plural; ``number`` says how many."""
    number: int
    examples: tuple[str, ...]
    """Up to five file names or sentences."""
    remedy: str


def find_faults(splits: Sequence[ReadSplit], counted: Sequence[SplitSurvey]) -> list[Finding]:
    """All findings, errors first.

    Args:
        splits: all of one description.
        counted: their numbers.
    """
    told: dict[str, set[str]] = defaultdict(set)  # a file of two splits counts once
    for split in splits:
        for kind, sentence in _of_split(split):
            told[kind].add(sentence)
    description = splits[0].row.description
    of_all = (*_twice(splits), *_smoothed(splits), *_of_classes(description, counted))
    for kind, sentence in of_all:
        told[kind].add(sentence)
    findings = [
        Finding(kind, is_error, what, len(told[kind]), _some(told[kind]), remedy)
        for kind, (is_error, what, remedy) in _KINDS.items()
        if kind in told
    ]
    return [*findings, *_absent(description, counted)]


def _some(sentences: set[str]) -> tuple[str, ...]:
    return tuple(sorted(sentences)[:_EXAMPLES])


def _of_split(split: ReadSplit) -> Iterator[tuple[str, str]]:
    """Kinds of findings and sentences."""
    description = split.row.description
    label_of, number = labels_of_values(description), len(description.classes)
    yield from split.problems
    for sample, record in zip(split.samples, split.records, strict=True):
        yield from (tuple(problem) for problem in record["problems"])
        if (picture := record.get("picture")) is not None:
            height, width = picture["size"]
            name = f"{sample['file_name']} ({width}x{height})"
            if min(height, width) < _SMALL:
                yield "small", name
            elif height * width > _LARGE:
                yield "large", name
            if picture["flat"]:
                yield "flat", sample["file_name"]
        if "labels" not in record:
            continue
        found = contents(record, label_of, number)
        if found.unlisted:
            values = listed(found.unlisted, _as_written if description.has_colors else str)
            yield "unlisted", f"{sample['sem_seg_file_name']}: {values}"
        elif not found.segments and description.task != "instance":
            yield "empty", sample["file_name"]
        if description.task == "panoptic":
            classes = [category for category, _ in found.segments]
            for category in set(classes):
                entry = description.classes[category]
                if not entry.is_thing and (count := classes.count(category)) > 1:
                    yield "several", f"{sample['pan_seg_file_name']} ({count} of {entry.name})"


def _as_written(color: int) -> str:
    return str(unpack_color(color))


def _twice(splits: Sequence[ReadSplit]) -> Iterator[tuple[str, str]]:
    seen: dict[str, dict[str, str]] = defaultdict(dict)  # of a picture, the file in each split
    for split in splits:
        for sample, record in zip(split.samples, split.records, strict=True):
            if "picture" in record:
                files, file = seen[record["picture"]["hash"]], sample["file_name"]
                files[split.row.name] = min(file, files.get(split.row.name, file))
    for files in seen.values():
        if len(files) > 1:
            yield "twice", ", ".join(f"{file} ({name})" for name, file in sorted(files.items()))


def _smoothed(splits: Sequence[ReadSplit]) -> Iterator[tuple[str, str]]:
    """Classes nearly all of whose pixels have a lower label on one side and a higher on the other.

    One may be thin by nature; of several, interpolation has made them.
    """
    description = splits[0].row.description
    label_of = labels_of_values(description)
    pixels: dict[str, Counter[int | None]] = {"values": Counter(), "between": Counter()}
    for record in (record for split in splits for record in split.records):
        for key, counter in pixels.items():
            for value, count in record.get("labels", {}).get(key, ()):
                counter[label_of(value)] += count
    shares = {
        i: pixels["between"][i] / pixels["values"][i]
        for i in range(len(description.classes))
        if pixels["values"][i]
    }
    found = [i for i, share in shares.items() if share > _EDGES]
    for i in found if len(found) > 1 else ():
        yield "smoothed", f"{description.classes[i].name}: {shares[i]:.0%} of its pixels"


def _of_classes(
    description: Description, counted: Sequence[SplitSurvey]
) -> Iterator[tuple[str, str]]:
    labelled = [split for split in counted if split.labelled]
    for split in labelled:
        seen = [i for i, found in enumerate(split.classes) if found.pixels]
        is_training = split.name == description.training.name
        if is_training and description.task == "semantic" and len(seen) == 1:
            name = description.classes[seen[0]].name
            yield "one_class", f"{split.name}: {name!r} in {split.labelled} label maps"
        if is_training and not seen:
            yield "nothing", f"{split.name}: {split.labelled} pictures"
    for index in _unseen(labelled):
        yield "never", description.classes[index].name


def _unseen(labelled: Sequence[SplitSurvey]) -> set[int]:
    """The classes that no split has."""
    missing = [{i for i, c in enumerate(split.classes) if not c.pixels} for split in labelled]
    return set.intersection(*missing) if missing else set()


def _absent(description: Description, counted: Sequence[SplitSurvey]) -> Iterator[Finding]:
    labelled = [split for split in counted if split.labelled]
    nowhere = _unseen(labelled)
    for split in labelled:
        names = [
            entry.name
            for i, (entry, found) in enumerate(zip(description.classes, split.classes, strict=True))
            if not found.pixels and i not in nowhere
        ]
        if names:
            is_training = split.name == description.training.name
            remedy = _ABSENT_TRAIN if is_training else _ABSENT_OTHER
            examples = tuple(names[:_EXAMPLES])
            yield Finding("absent", False, _ABSENT + split.name, len(names), examples, remedy)
