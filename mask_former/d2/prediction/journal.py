"""The journal of a run: a line of JSON for each picture, written when its files are there.

A run that was killed reads it and goes on. A picture that failed has a line as well; the next run
tries it again.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from ..errors import InputError
from ..run.files import replacing

T = TypeVar("T")
Row = dict[str, Any]
"""``name`` and ``file``; then ``error``, or what was found and the ``files`` of it."""

_KINDS = ("segments_info", "instances", "classes")
_PART = re.compile(r"\.(\d+)-of-(\d+)")


def regions_of(row: Row) -> list[dict[str, Any]]:
    """The entries of what was found in a picture: instances and not the classes beside them."""
    return next((row[kind] for kind in _KINDS if kind in row), [])


class Part(NamedTuple):
    """Which part of the list of pictures a run takes."""

    rank: int = 0
    """From 0 on."""
    number: int = 1
    """Of parts."""

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Of ``I/N``.

        Raises:
            ValueError: that is none.
        """
        rank, number = map(int, text.split("/"))
        if not 0 <= rank < number:
            raise ValueError(text)
        return cls(rank, number)

    @property
    def infix(self) -> str:
        """What the names of its files have before the suffix."""
        return f".{self.rank}-of-{self.number}" if self.number > 1 else ""

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Its items, which stand together: those of one archive or video are mostly in one part."""
        start, stop = (len(items) * i // self.number for i in (self.rank, self.rank + 1))
        return items[start:stop]

    def journal(self, folder: Path) -> Path:
        """Its file in the folder of the results."""
        return folder / f"results{self.infix}.jsonl"

    def settings(self, folder: Path) -> Path:
        """Its file in the folder of the results."""
        return folder / f"settings{self.infix}.json"


WHOLE = Part()


def parts_in(folder: Path) -> list[Part]:
    """The parts that have a journal in a folder of results."""
    found = (_PART.search(path.name) for path in folder.glob("results.*-of-*.jsonl"))
    return sorted(Part(*map(int, match.groups())) for match in found if match)


class Journal:
    """A journal that is open for writing, by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Reads what there is; failures and a line that was cut by a kill are taken out.

        Raises:
            InputError: another process writes it.
        """
        self.done: set[str] = set()
        """Names of the pictures that are finished."""
        self._file = self._open(path)
        if not all(map(self._is_done, self._file)):
            self._file.seek(0)
            with replacing(path) as file:
                file.writelines(filter(self._is_done, self._file))
            self._file.close()
            self._file = self._open(path)
        self._file.seek(0, os.SEEK_END)

    def _open(self, path: Path) -> BinaryIO:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise InputError(
                f"another process is writing to {path}; wait for it, or name another folder"
            ) from error
        file.seek(0)
        return file

    def _is_done(self, line: bytes) -> bool:
        if not line.endswith(b"\n"):
            return False
        row = json.loads(line)
        if "error" not in row:
            self.done.add(row["name"])
        return "error" not in row

    def append(self, row: Row) -> None:
        """Writes a row, so that a kill of this process does not lose it."""
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Lets others write."""
        self._file.close()


class Rows:
    """The rows of journals in the order of their names; kept on the disk, not in memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._places: list[tuple[str, int, int]] = []
        for number, path in enumerate(paths):
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    self._places.append((json.loads(line)["name"], number, offset))
                    offset += len(line)
        self.in_order = len(paths) == 1 and self._places == sorted(self._places)
        self._places.sort()

    def lines(self) -> Iterator[bytes]:
        """The lines, with their ends."""
        files = [path.open("rb") for path in self._paths]
        try:
            for _, number, offset in self._places:
                files[number].seek(offset)
                yield files[number].readline()
        finally:
            for file in files:
                file.close()

    def __iter__(self) -> Iterator[Row]:
        return map(json.loads, self.lines())

    def __len__(self) -> int:
        return len(self._places)


def keep_settings(folder: Path, part: Part, settings: dict[str, Any]) -> None:
    """Writes the settings of a part of a run, which must be those of what lies in the folder.

    Raises:
        InputError: they are not.
    """
    for path in sorted(folder.glob("settings*.json")):
        before = json.loads(path.read_text(encoding="utf-8"))
        for key, value in settings.items():
            # The list may grow between runs, unless parts of it are taken.
            fixed = key != "pictures" or part.number > 1
            if fixed and before.get(key) != json.loads(json.dumps(value)):
                raise InputError(
                    f"{folder} has results of a run whose {key} was {before.get(key)!r}, not "
                    f"{value!r}: give the command again as it was, or name another folder"
                )
    with replacing(part.settings(folder)) as file:
        file.write(json.dumps(settings, indent=1).encode())
