"""The pictures of folders, patterns, lists, tar archives and videos, each under a name of its own.

Names decide on everything: results are named and ordered by them, a run that goes on knows by them
what is done, and parts of the list are cut in their order.
"""

import glob
import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, groupby
from pathlib import Path, PurePath
from threading import Lock
from typing import NamedTuple

import cv2
import numpy as np

from ..data.pairing import PICTURE_EXTENSIONS, walk
from ..data.reading import decode_picture, read_picture
from ..errors import InputError

PICTURES = {*PICTURE_EXTENSIONS, ".gif"}
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
ARCHIVES = {".tar"}
LISTS = {".txt", ".lst", ".list"}
_PACKED = {".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip"}


class Item(NamedTuple):
    """A picture that is to be segmented."""

    name: str
    """Its own among all, such as ``street/1.jpg``; never leaves the folder of the results."""
    result: str
    """The name of its results: without the suffix, if no other picture has the same then."""
    file: str
    """The picture, or the archive or the video that it is in."""
    place: tuple[int, int] | None = None
    """In an archive: the offset of its first byte, and how many there are."""
    frame: int | None = None
    """In a video: its number from 0 on."""


Reader = Callable[[], np.ndarray]
"""Gives a picture [H, W, 3], BGR, uint8; raises InputError if it is bad."""


def find_items(source: str) -> list[Item]:
    """All pictures of an input, in the order of their names.

    Archives and videos that lie among pictures are opened; what cannot be opened is an item, too,
    whose reader says why.

    Args:
        source: a folder, searched to its depth; a picture, an archive (.tar) or a video; a list of
            these in a text file, one a line, relative to the working directory; or a pattern.

    Raises:
        InputError: there is nothing, or two pictures have one name.
    """
    source = os.path.expanduser(source)
    files: Iterable[tuple[str, str]]
    if os.path.isdir(source):
        below = walk(source, (*PICTURES, *VIDEOS, *ARCHIVES))
        files = [(PurePath(path).as_posix(), os.path.join(source, path)) for path in below]
    elif os.path.isfile(source) and Path(source).suffix.lower() in LISTS:
        try:
            lines = Path(source).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{source} is no list: {error}; give a text in UTF-8") from error
        files = [(_safe(line), line) for line in map(str.strip, lines) if line]
    elif os.path.isfile(source):
        files = [(os.path.basename(source), source)]
    else:
        found = glob.glob(source, recursive=True)
        files = [(_safe(path), path) for path in found if os.path.isfile(path)]
    # A list may name a file twice.
    entries = [entry for name, file in dict.fromkeys(files) for entry in _expand(name, file)]
    if not entries:
        raise InputError(
            f"{source} has no picture: give a folder, a list, a pattern in quotes, or files that "
            f"end in {', '.join(sorted(PICTURES | VIDEOS | ARCHIVES))}"
        )
    stems = Counter(_stem(entry.name) for entry in entries)
    items = sorted(
        entry._replace(result=_stem(entry.name) if stems[_stem(entry.name)] == 1 else entry.name)
        for entry in entries
    )
    name, times = Counter(item.result for item in items).most_common(1)[0]
    if times > 1:
        raise InputError(f"{source} has {times} pictures whose name is {name}; give each its own")
    return items


def readers(items: Sequence[Item]) -> Iterator[Reader]:
    """What reads each item; to be taken in their order, and called in any order by any thread."""
    for file, group in groupby(items, key=lambda item: item.file):
        wanted = list(group)
        if wanted[0].frame is None:
            yield from (partial(_read, item) for item in wanted)
        else:
            video = _Video(file, [item.frame or 0 for item in wanted])
            yield from (partial(video.read, item.frame or 0) for item in wanted)


def _safe(path: str) -> str:
    """A path as a name: relative, without the ``..`` that would lead out of a folder."""
    return "/".join(part for part in PurePath(path).parts if part not in ("..", "/", "\\"))


def _stem(name: str) -> str:
    path = PurePath(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in PICTURES else name


def _expand(name: str, file: str) -> Iterator[Item]:
    """The pictures of a file."""
    suffix, stem = Path(file).suffix.lower(), PurePath(name).with_suffix("").as_posix()
    if suffix in _PACKED:
        raise InputError(
            f"{file} is packed, so that its pictures cannot be read one by one; unpack it to a "
            "folder or to a .tar"
        )
    if suffix in VIDEOS:
        frames = _count_frames(file)
        yield from (Item(f"{stem}/{i:06d}", "", file, frame=i) for i in range(frames))
        if not frames:
            yield Item(name, "", file)
    elif suffix in ARCHIVES:
        yield from _members(name, stem, file)
    else:
        yield Item(name, "", file)


def _members(name: str, stem: str, file: str) -> Iterator[Item]:
    """The pictures of an archive; if it ends too early, the archive itself, too."""
    whole = False
    try:
        with tarfile.open(file, "r:") as archive, open(file, "rb") as content:
            for member in archive:
                if member.isfile() and Path(member.name).suffix.lower() in PICTURES:
                    place = (member.offset_data, member.size)
                    yield Item(f"{stem}/{_safe(member.name)}", "", file, place)
            content.seek(
                archive.offset
            )  # to what must be a block of zeros, as tarfile does not ask
            whole = content.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError):
        pass
    if not whole:
        yield Item(name, "", file)


def _count_frames(file: str) -> int:
    """How many can be read; the number that a video states is a rough one."""
    capture = cv2.VideoCapture(file)
    frames = next(number for number in count() if not capture.grab())
    capture.release()
    return frames


def _read(item: Item) -> np.ndarray:
    """The picture of a file or of an archive."""
    suffix = Path(item.file).suffix.lower()
    if item.place is not None:
        start, length = item.place
        with open(item.file, "rb") as archive:
            archive.seek(start)
            content = archive.read(length)
        return decode_picture(io.BytesIO(content), f"{item.name} of {item.file}", "BGR")
    if suffix in ARCHIVES:
        raise InputError(f"archive {item.file} cannot be read to its end; copy it again")
    if suffix in VIDEOS:
        raise InputError(f"video {item.file} has no frame that OpenCV can read; replace the file")
    return read_picture(item.file, "BGR")


class _Video:
    """The frames of a video, which come one after another."""

    def __init__(self, file: str, wanted: Iterable[int]) -> None:
        """Will be asked for the frames of these numbers, for each once."""
        self._file, self._wanted = file, set(wanted)
        self._capture = cv2.VideoCapture(file)
        self._next = 0
        self._ahead: dict[int, np.ndarray | None] = {}
        self._lock = Lock()

    def read(self, frame: int) -> np.ndarray:
        """The frame; those before it are kept for the threads that will ask for them."""
        with self._lock:
            while self._next <= frame:
                self._capture.grab()
                if self._next in self._wanted:
                    self._ahead[self._next] = self._capture.retrieve()[1]
                self._next += 1
            self._wanted.discard(frame)
            picture = self._ahead.pop(frame)
            if not self._wanted:
                self._capture.release()
        if picture is None:
            raise InputError(f"frame {frame} of video {self._file} cannot be read any more")
        return picture
