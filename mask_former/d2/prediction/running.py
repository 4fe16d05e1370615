"""A run over many pictures: what is left to do is done, and the whole is put together."""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from tqdm import tqdm

from ..errors import InputError
from ..run.files import remove_unfinished, replacing
from .assembly import assemble, categories
from .journal import WHOLE, Journal, Part, Row, Rows, keep_settings, parts_in
from .sources import Item, find_items
from .worker import Job, local_rows

RowsOf = Callable[[Job, CfgNode, Sequence[Item]], Iterable[Row]]


class Summary(NamedTuple):
    """What a run has done."""

    pictures: int
    """That had no results before."""
    seconds: float
    """With the time in which the model is loaded."""
    failures: dict[str, str]
    """What is wrong with the pictures that could not be read, by name."""


def predict(job: Job, source: str, part: Part = WHOLE, rows_of: RowsOf = local_rows) -> Summary:
    """Segments the pictures of an input, or a part of them, that have no results yet.

    Args:
        job: what is done with each picture.
        source: see :func:`~mask_former.d2.prediction.sources.find_items`.
        part: of the list; :func:`merge` then puts the whole together.
        rows_of: does the work.

    Raises:
        InputError: the input or the model is bad, or results cannot be written.
    """
    _check_folder(source, job.output)
    cfg = job.configuration()
    items = find_items(source)
    mine = part.of(items)
    job.output.mkdir(parents=True, exist_ok=True)
    others = [other for other in parts_in(job.output) if other.number != part.number]
    if others and part != WHOLE:
        raise InputError(
            f"{job.output} has results of --shard {others[0].rank}/{others[0].number}, but this is "
            f"{part.rank}/{part.number}: give all parts one number, or name another folder"
        )
    settings = {
        "input": source,
        "weights": job.weights,
        "weights' size and time": _size_and_time(job.weights),
        "config_file": job.config_file,
        "opts": job.opts,
        "formats": job.formats,
        "gallery": job.thumbnails,
        "min_score": job.min_score,
        "pictures": len(items),
        "categories": categories(cfg),
    }
    keep_settings(job.output, part, settings)
    journal = Journal(part.journal(job.output))
    try:
        if gone := journal.done.difference(item.name for item in mine):
            raise InputError(
                f"{job.output} has results of {len(gone)} picture(s), {min(gone)} among them, that "
                f"this run's list of {source} does not have: put them back, or name another folder"
            )
        todo = [item for item in mine if item.name not in journal.done]
        if part == WHOLE:  # else others may be at work on other parts
            _remove_unfinished(job.output)
        summary = _work(rows_of(job, cfg, todo) if todo else (), journal, len(mine), len(todo))
        if part == WHOLE:
            _finish(job.output, [part], settings)
    finally:
        journal.close()
    return summary


def merge(output: Path) -> Summary:
    """Puts the results of all parts of a list together.

    Raises:
        InputError: a part is missing or not finished.
    """
    parts = parts_in(output)
    numbers = {part.number for part in parts}
    if len(numbers) != 1:
        found = ", ".join(f"{part.rank}/{part.number}" for part in parts) or "none"
        raise InputError(
            f"{output} must have the results of all parts of one list, but those there are: "
            f"{found}; run `mask_former predict` with --shard 0/N, 1/N and so on, all with one N"
        )
    (number,) = numbers
    start, open_parts, settings = time.perf_counter(), [], {}
    for part in (Part(index, number) for index in range(number)):
        rows, wanted = 0, -1
        if part in parts:
            settings = json.loads(part.settings(output).read_text(encoding="utf-8"))
            rows, wanted = (
                len(Rows([part.journal(output)])),
                len(part.of(range(settings["pictures"]))),
            )
        if rows != wanted:
            open_parts.append(f"{part.rank}/{number}")
    if open_parts:
        raise InputError(
            f"{output}: not all pictures of parts {', '.join(open_parts)} are done; run "
            "`mask_former predict` with these --shard again, and merge then"
        )
    _remove_unfinished(output)
    rows_of_all = _finish(output, parts, settings)
    failures = {row["name"]: row["error"] for row in rows_of_all if "error" in row}
    return Summary(len(rows_of_all), time.perf_counter() - start, failures)


def _size_and_time(weights: str) -> list[int]:
    """By which other weights of the same name are known; nothing of an address."""
    status = os.stat(weights) if os.path.isfile(weights) else None
    return [] if status is None else [status.st_size, int(status.st_mtime)]


def _check_folder(source: str, output: Path) -> None:
    """Refuses to write results where the next run would take them for pictures."""
    folder = os.path.realpath(os.path.expanduser(source))
    inside = Path(os.path.realpath(output))
    if os.path.isdir(folder) and inside.is_relative_to(folder):
        raise InputError(
            f"{output} lies in {source}, so that the next run would take overlays for pictures; "
            "name a folder outside"
        )


def _work(rows: Iterable[Row], journal: Journal, total: int, todo: int) -> Summary:
    """Writes rows as they come, and shows how far it is."""
    failures: dict[str, str] = {}
    start = time.perf_counter()
    done = total - todo
    with tqdm(total=total, initial=done, unit=" pictures", dynamic_ncols=True) as bar:
        for row in rows:
            journal.append(row)
            if "error" in row:
                failures[row["name"]] = row["error"]
            bar.update()
    return Summary(todo, time.perf_counter() - start, failures)


def _finish(output: Path, parts: Sequence[Part], settings: dict[str, Any]) -> Rows:
    """One journal in the order of names, and what is made of it."""
    rows = Rows([part.journal(output) for part in parts])
    if not rows.in_order:
        with replacing(WHOLE.journal(output)) as file:
            file.writelines(rows.lines())
        rows = Rows([WHOLE.journal(output)])
    assemble(output, rows, settings)
    return rows


def _remove_unfinished(output: Path) -> None:
    """Of processes that were killed, in all folders of the results."""
    for folder, _, _ in os.walk(output):
        remove_unfinished(folder)
