"""A survey of a described data set: every file is read, counted, and told about if it is wrong.

:func:`survey` does it; :mod:`..visualization.survey_report` writes it down.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from .counting import ReadSplit, SplitSurvey, contents, count_split, labels_of_values
from .datasets import DescribedSet
from .description import Description
from .examination import Record, Sample, Work, examine
from .findings import Finding, find_faults
from .json_files import check_instances, check_panoptic, read_json, used_categories
from .pairing import LABEL_EXTENSIONS, LOSSY_EXTENSIONS, PICTURE_EXTENSIONS, match, pictures, walk
from .preparing import as_they_come

MEMORY = "survey.jsonl"
"""The file below the output folder that keeps what was found, for a second survey."""
_SHOWN = 12
_FEW = 100 * 10**6  # bytes that are read about as fast as other processes start
_NOT_DRAWN = ("size", "exif_stored")
_OF_FORM = (KeyError, TypeError, AttributeError)  # what loaders raise that take a form for granted


class Shown(NamedTuple):
    """A picture that is worth to be looked at."""

    split: str
    sample: Sample
    rarest: int
    """The class for which it was chosen."""


class Survey(NamedTuple):
    """What a data set holds and what is wrong with it."""

    description: Description
    splits: tuple[SplitSurvey, ...]
    findings: tuple[Finding, ...]
    """Errors first."""
    shown: tuple[Shown, ...]
    """Up to a dozen pictures with labels, rare classes first."""

    @property
    def has_errors(self) -> bool:
        """Whether something must be mended before a training."""
        return any(finding.is_error for finding in self.findings)

    @property
    def training(self) -> SplitSurvey:
        """The split that is there to be trained on."""
        name = self.description.training.name
        return next(split for split in self.splits if split.name == name)


def survey(description: Description, output: str, workers: int | None = None) -> Survey:
    """Reads all pictures and labels of a data set.

    What was read is kept in ``output``: a survey that was stopped goes on where it was, and another
    one reads only files that have changed since.

    Args:
        description: of the data set.
        output: a folder, which is made.
        workers: processes; None: one for each CPU, or this one alone for little data.

    Raises:
        InputError: a worker was killed, or the folder cannot be made. What is wrong with the data
            set is no error here but a finding.
    """
    rows = [DescribedSet(description, split) for split in description.splits]
    gathered = _with_unused(_gather(row) for row in rows)
    number, ignored = len(description.classes), description.ignore_label
    works = [Work(sample, number, ignored) for split in gathered for sample in split.samples]
    records = iter(_examine_all(works, output, workers))
    read = [split._replace(records=[next(records) for _ in split.samples]) for split in gathered]
    counted = tuple(count_split(split) for split in read)
    findings = find_faults(read, counted)
    if not any(finding.is_error for finding in findings):
        read = [_with_refusal(split) for split in read]
        findings = find_faults(read, counted)
    return Survey(description, counted, tuple(findings), tuple(_choose(read, counted)))


def _gather(row: DescribedSet) -> ReadSplit:
    """The samples of a split; with no categories that would be refused, which are told instead."""
    lenient = row
    if row.split.json is not None:
        lenient = row._replace(description=row.description._replace(ignores_rest=True))
    try:
        samples = _load(lenient)
        problems = [*_problems_of_json(row), *_unpaired(row)]
    except InputError as error:
        return ReadSplit(row, [], [], [("split", str(error))])
    for sample in samples:
        if "label_values" in sample:  # label maps beside a JSON are not read leniently
            sample["label_values"] = row.description.label_values()
    return ReadSplit(row, samples, [], problems)


def _load(row: DescribedSet) -> list[Sample]:
    """The samples of a split.

    Raises:
        InputError: also where a JSON has another form than its loader takes for granted.
    """
    try:
        return row.load()
    except (InputError, KeyError, TypeError, AttributeError, AssertionError) as error:
        is_of_form = not isinstance(error, InputError) or isinstance(error.__cause__, _OF_FORM)
        if row.split.json is not None and is_of_form:
            _check_json(row, row.description.path(row.split.json))
        raise


def _with_refusal(split: ReadSplit) -> ReadSplit:
    """Adds what training or evaluation would refuse in a JSON that nothing else is wrong with."""
    row = split.row
    try:
        if row.split.json is not None:
            _check_json(row, row.description.path(row.split.json))
    except InputError as error:
        return split._replace(problems=[*split.problems, ("split", str(error))])
    return split


def _check_json(row: DescribedSet, file: str) -> None:
    """Refuses annotations that training or evaluation would refuse."""
    if row.description.task == "instance":
        check_instances(file)
    else:
        listed = "categories" in read_json(file)
        check_panoptic(file, (), () if listed else row.description.categories())


def _problems_of_json(row: DescribedSet) -> Iterator[tuple[str, str]]:
    """Categories that a JSON has otherwise than the description.

    Raises:
        InputError: it has a number that is not finite, which training refuses.
    """
    description = row.description
    if row.split.json is None:
        return
    file = description.path(row.split.json)
    content = read_json(file, "annotations")
    known, found = description.categories(), Counter(used_categories(content))
    for category, count in found.items():
        if category not in known and not description.ignores_rest:
            yield "category", f"{file}: category_id {category!r} in {count} annotations"
    for entry in content.get("categories", ()) if description.task == "panoptic" else ():
        index = known.get(entry.get("id"))
        if index is not None and "isthing" in entry:
            is_thing = description.classes[index].is_thing
            if bool(entry["isthing"]) != is_thing:
                said = f"isthing {entry['isthing']!r}, thing {str(is_thing).lower()} of the class"
                yield "things", f"{file}: category_id {entry['id']} has {said}"


def _unpaired(row: DescribedSet) -> Iterator[tuple[str, str]]:
    """Pictures and label maps in folders that belong to nothing."""
    split, path = row.split, row.description.path
    if split.json is not None or split.labels is None or split.list is not None:
        return
    images, labels = path(split.images), path(split.labels)
    found = pictures(images, split.image_suffix)
    _, bare, orphans = match(found, labels, split.image_suffix, split.label_suffix)
    yield from (("bare", pair.image) for pair in bare)
    yield from (("orphans", os.path.join(labels, file)) for file in orphans)
    if os.path.commonpath([images, labels]) not in (images, labels):
        yield from (("jpeg", os.path.join(labels, file)) for file in walk(labels, LOSSY_EXTENSIONS))


def _with_unused(gathered: Iterator[ReadSplit]) -> list[ReadSplit]:
    """Adds files in folders that no JSON names; several splits may share a folder."""
    splits = list(gathered)
    used = {
        os.path.realpath(sample[key])
        for split in splits
        for sample in split.samples
        for key in ("file_name", "pan_seg_file_name")
        if key in sample
    }
    for split in splits:
        written, path = split.row.split, split.row.description.path
        if written.json is None or not split.samples:
            continue
        for kind, folder, extensions in (
            ("bare", written.images, PICTURE_EXTENSIONS),
            ("orphans", written.panoptic, LABEL_EXTENSIONS),
        ):
            if folder is None:
                continue
            files = [os.path.join(path(folder), name) for name in walk(path(folder), extensions)]
            split.problems.extend((kind, f) for f in files if os.path.realpath(f) not in used)
    return splits


def _examine_all(works: Sequence[Work], output: str, workers: int | None) -> list[Record]:
    """The records, in their order: those that are remembered, and the others, which will be."""
    folder = Path(output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); give another") from error
    known = _remembered(folder / MEMORY)
    keys = [work.key() for work in works]
    todo = {key: work for key, work in zip(keys, works, strict=True) if key not in known}
    if workers is None:
        is_little = sum(work.size() for work in todo.values()) < _FEW
        workers = 1 if is_little else os.cpu_count() or 1
    if todo:
        found = as_they_come(examine, list(todo.values()), workers, "reading")
        with open(folder / MEMORY, "a", encoding="utf-8") as memory:
            for key, record in zip(todo, found, strict=True):
                memory.write(f'{{"key": "{key}", "record": {record}}}\n')
                memory.flush()
                known[key] = json.loads(record)
    return [known[key] for key in keys]


def _remembered(file: Path) -> dict[str, Record]:
    """The records of a survey, also of one that was killed while it wrote a line."""
    if not file.exists():
        return {}
    lines = file.read_bytes().split(b"\n")
    if cut := lines.pop():
        os.truncate(file, file.stat().st_size - len(cut))
    records = {}
    for line in lines:
        with suppress(ValueError):  # what two surveys wrote at once is read again
            entry = json.loads(line)
            records[entry["key"]] = entry["record"]
    return records


def _choose(read: Sequence[ReadSplit], counted: Sequence[SplitSurvey]) -> Iterator[Shown]:
    """Pictures that have much of a class, for each class in turn, from the rarest on."""
    description = read[0].row.description
    number, label_of = len(description.classes), labels_of_values(description)
    candidates: dict[int, list[tuple[int, str, Shown]]] = defaultdict(list)
    for split in read:
        for sample, record in zip(split.samples, split.records, strict=True):
            kinds = [kind for kind, _ in record["problems"]]
            if not {"labels", "picture"} <= record.keys() or {*kinds} & {*_NOT_DRAWN}:
                continue
            pixels: Counter[int] = Counter()
            for category, count in contents(record, label_of, number).segments:
                pixels[category] += count
            for category, count in pixels.items():
                shown = Shown(split.row.name, sample, category)
                candidates[category].append((-count, sample["file_name"], shown))
    totals = [sum(split.classes[i].pixels for split in counted) for i in range(number)]
    queues = [
        sorted(candidates[i], key=lambda entry: entry[:2], reverse=True)  # the best is last
        for i in sorted(candidates, key=lambda i: (totals[i], i))
    ]
    taken: set[str] = set()
    while len(taken) < _SHOWN and any(queues):
        for queue in queues:
            while queue and queue[-1][1] in taken:
                queue.pop()
            if queue and len(taken) < _SHOWN:
                _, name, shown = queue.pop()
                taken.add(name)
                yield shown
