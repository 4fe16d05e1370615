"""Files of a run, each of which is whole or not there."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError

_UNFINISHED = ".unfinished"


def require_writable(folder: str, setting: str = "OUTPUT_DIR") -> None:
    """Makes a folder, unless it is there, and writes a file in it to see whether one can.

    Args:
        folder: its path.
        setting: what names it, for the sentence.

    Raises:
        InputError: one cannot.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b" ")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{setting} is {folder!r}, where no file can be written: {reason}; name a folder that "
            "can be written to"
        ) from error


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes its place when all of it is on the disk.

    Args:
        path: what lay there stays until then, and stays if anything goes wrong.
    """
    beside = Path(f"{path}.{os.getpid()}{_UNFINISHED}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(beside.parent, os.O_RDONLY)  # or the new name could be lost with the power
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def json_lines(path: str | Path) -> list[Any]:
    """What stands in the lines of a file, as metrics.json has them; torn ones are left out."""
    found = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def remove_unfinished(folder: str | Path) -> None:
    """Takes away what a process left that was killed as it wrote."""
    for path in Path(folder).glob(f"*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def remove_old_checkpoints(folder: str | Path, kept: int) -> None:
    """Takes away all but the last numbered checkpoints.

    Args:
        folder: of the run; the best, the final and an interrupted one stay.
        kept: how many stay; 0: all.
    """
    numbered = sorted(Path(folder).glob("model_" + 7 * "[0-9]" + ".pth"))
    for path in numbered[:-kept] if kept else ():
        path.unlink(missing_ok=True)
