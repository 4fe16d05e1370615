"""What is read from annotations of other programs, before it is written as COCO's instances."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, NamedTuple

from ..data.pairing import PICTURE_EXTENSIONS, walk
from ..errors import InputError
from .folders import named_split
from .foreign import Foreign

DATUM = "MASK_FORMER_DATUM"
"""The environment variable that names Datumaro's program."""
_INSTALL = {
    "supervision": 'pip install "supervision>=0.31.2"',
    "datumaro": 'python -m venv DIR && DIR/bin/pip install "datumaro[cli]" && '
    f"export {DATUM}=DIR/bin/datum",
}


class Instance(NamedTuple):
    """An annotated object."""

    name: str
    segmentation: Any
    """As COCO has it."""
    area: float
    box: list[float]


class Picture(NamedTuple):
    """An annotated picture."""

    split: str
    """Empty where nothing says it."""
    path: str
    """Below the folder."""
    size: tuple[int, int]
    instances: list[Instance]


class Gathering:
    """Annotations of a folder as they are read, with what is to be said about them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.pictures: list[Picture] = []
        self.names: dict[str, None] = {}
        """Classes, in the order of their numbers."""
        self.counted: Counter[str] = Counter()
        """How often each thing happened that must be said."""
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in sorted(walk(folder, PICTURE_EXTENSIONS)):
            self._by_stem[_stem(path)].append(path)

    def find(self, name: str, near: str) -> str:
        """The path of a picture below the folder.

        Args:
            name: with folders as the annotations have them, and perhaps another extension.
            near: the file of annotations, or a folder with ``/`` at its end, below the folder;
                where several pictures have the name, the one next to it is meant.

        Raises:
            InputError: none has the name, or several have it.
        """
        name = name.replace("\\", "/")
        possible = self._by_stem.get(_stem(name), [])
        if not possible:
            where = near or "an annotation"
            raise InputError(
                f"{where} names {name}, which lies nowhere in {self.folder}; put the pictures there"
            )
        likeness = [_likeness(path, name, near) for path in possible]
        likely = [p for p, like in zip(possible, likeness, strict=True) if like == max(likeness)]
        if len(likely) > 1:
            raise InputError(
                f"{near} names {name}, which may be {likely[0]} or {likely[1]} in {self.folder}; "
                "take one away"
            )
        return likely[0]


def _likeness(path: str, name: str, near: str) -> tuple[int, ...]:
    """How well a picture fits what annotations call it; more is better, the first counts most."""
    parts = path.split("/")
    is_named = parts[-1] == os.path.basename(name)
    as_written = _shared(reversed(parts), reversed(name.split("/")))
    is_split = named_split(path) == named_split(near)
    return int(is_named), as_written, int(is_split), _shared(parts, near.split("/"))


def _shared(one: Iterable[str], two: Iterable[str]) -> int:
    """How many parts are the same from the beginning on."""
    return len([*takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False))])


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0].lower()


def missing(found: Foreign, reason: str) -> InputError:
    """The error for a package that is not installed."""
    package = str(found.kind.package)
    return InputError(
        f"{found.file} is {found.kind.name}, which the package {package} reads ({reason}): "
        f"{_INSTALL[package]}"
    )
