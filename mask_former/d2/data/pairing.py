"""Pictures in folders, and the label maps that belong to them: by stem, or by a list."""

import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import InputError
from .reading import naming

_logger = logging.getLogger(__name__)

PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")
LABEL_EXTENSIONS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm")
"""None that loses: JPEG changes the values."""
LOSSY_EXTENSIONS = (".jpg", ".jpeg", ".webp")


class Pair(NamedTuple):
    """A picture, and its label map where it has one."""

    stem: str
    """The path below the folder of pictures, without the extension; it identifies the picture."""
    image: str
    labels: str | None = None


def walk(folder: str, extensions: tuple[str, ...]) -> Iterator[str]:
    """Paths of files below a folder, relative to it, of these extensions in any case.

    Links are followed, but for one that leads back to a folder that it lies in.
    """
    for parent, folders, names in os.walk(folder, followlinks=True):
        inner = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in inner if not _leads_back(os.path.join(parent, name))]
        for name in names:
            if name.lower().endswith(extensions) and not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _leads_back(path: str) -> bool:
    target = os.path.realpath(path)
    return os.path.islink(path) and f"{os.path.realpath(os.path.dirname(path))}/".startswith(
        f"{target}/"
    )


def pictures(
    folder: str, suffix: str = "", listing: str | None = None, labels: str | None = None
) -> list[Pair]:
    """The pictures of a folder, in the order of their stems, or those of a list, in its order.

    Args:
        folder: searched with its folders.
        suffix: the end of every picture's stem; others are none.
        listing: a text file with a picture a line, below ``folder``; after a tab, its label map.
        labels: the folder that the list's label maps lie below.

    Raises:
        InputError: two pictures share a stem, or the list cannot be read, names none, or names
            files that do not exist.
    """
    if listing is not None:
        return _listed_pictures(folder, listing, labels)
    found = _by_stem(walk(folder, PICTURE_EXTENSIONS), folder, suffix)
    return [Pair(stem, os.path.join(folder, path)) for stem, path in sorted(found.items())]


class Matched(NamedTuple):
    """Pictures and label maps, brought together by their stems."""

    pairs: list[Pair]
    """Pictures with their label maps."""
    bare: list[Pair]
    """Pictures without a label map."""
    orphans: list[str]
    """Label maps without a picture, as paths below their folder."""


def match(
    found: list[Pair], folder: str, image_suffix: str = "", label_suffix: str = ""
) -> Matched:
    """Looks for the label map of each picture.

    A label map has the picture's stem, without ``image_suffix`` and with ``label_suffix``, or is
    named by the list.

    Args:
        found: the pictures.
        folder: the folder of the label maps.
        image_suffix: the end of the pictures' stems.
        label_suffix: the end of the label maps' stems.

    Raises:
        InputError: two label maps share a stem.
    """
    if all(pair.labels is not None for pair in found):
        return Matched(found, [], [])
    stems = {pair.stem.removesuffix(image_suffix): pair for pair in found}
    if label_suffix:  # else label maps that lie among the pictures are pictures, too
        stems = {s: pair for s, pair in stems.items() if not s.endswith(label_suffix)}
    maps = _by_stem(walk(folder, LABEL_EXTENSIONS), folder, label_suffix)
    maps = {stem.removesuffix(label_suffix): path for stem, path in maps.items()}
    paired = [
        pair._replace(labels=os.path.join(folder, maps[stem]))
        for stem, pair in stems.items()
        if stem in maps
    ]
    bare = [pair for stem, pair in stems.items() if stem not in maps]
    return Matched(paired, bare, [path for stem, path in maps.items() if stem not in stems])


def label_files(
    name: str, found: list[Pair], folder: str, image_suffix: str = "", label_suffix: str = ""
) -> list[Pair]:
    """The pictures that have a label map, with it, see ``match``; a warning counts the others.

    Raises:
        InputError: no picture has one, or two label maps share a stem.
    """
    pairs, bare, orphans = match(found, folder, image_suffix, label_suffix)
    if not pairs:
        raise InputError(_nothing_paired(name, bare, folder, label_suffix))
    _count("pictures", "label map", name, [pair.stem for pair in bare], len(pairs) + len(bare))
    stems = [os.path.splitext(path)[0] for path in orphans]
    _count("label maps", "picture", name, stems, len(pairs) + len(stems))
    return pairs


def _listed_pictures(folder: str, listing: str, labels: str | None) -> list[Pair]:
    with naming(listing, "list of pictures"), open(listing, encoding="utf-8") as file:
        lines = [line.strip().split("\t") for line in file if line.strip()]
    if not lines:
        raise InputError(f"{listing} is empty; name a picture a line, below {folder}")
    if wrong := next((line for line in lines if len(line) > 2), None):
        raise InputError(f"{listing} has the line {wrong}; give a picture, a tab and a label map")
    if len({len(line) for line in lines}) > 1:
        raise InputError(f"{listing} names label maps for some pictures only; name all, or none")
    if len(lines[0]) > 1 and labels is None:
        raise InputError(
            f"{listing} names label maps, but its split has no folder that they lie below; add "
            "`labels` to the split, or leave pictures alone in the list"
        )
    images = [os.path.join(folder, line[0]) for line in lines]
    maps = [os.path.join(str(labels), line[1]) for line in lines if len(line) > 1]
    for what, files in (("pictures", images), ("label maps", maps)):
        if missing := [file for file in files if not os.path.isfile(file)]:
            raise InputError(
                f"{listing} names {len(missing)} {what} that do not exist, such as {missing[0]}; "
                "mend the list, or restore them"
            )
    stems = [os.path.splitext(line[0])[0] for line in lines]
    columns = [stems, images, maps] if maps else [stems, images]
    return [Pair(*each) for each in zip(*columns, strict=True)]


def _by_stem(paths: Iterator[str], folder: str, suffix: str) -> dict[str, str]:
    """Relative paths by stem, of those whose stem ends with the suffix."""
    found: dict[str, str] = {}
    for path in sorted(paths):
        stem = os.path.splitext(path)[0]
        if not stem.endswith(suffix):
            continue
        if stem in found:
            raise InputError(
                f"{folder} has {found[stem]} and {path}, whose names differ in the extension "
                "alone; take one away"
            )
        found[stem] = path
    return found


def _nothing_paired(name: str, found: list[Pair], folder: str, suffix: str) -> str:
    if not found:
        return f"data set {name} has no pictures ({', '.join(PICTURE_EXTENSIONS)})"
    example = os.path.basename(found[0].image)
    lossy = next(walk(folder, LOSSY_EXTENSIONS), None)
    if lossy is not None and next(walk(folder, LABEL_EXTENSIONS), None) is None:
        return (
            f"data set {name} has label maps such as {lossy} in {folder}, whose format changes "
            "values; write them anew as PNG"
        )
    return (
        f"data set {name}: no picture of {len(found)} has a label map in {folder}; that of "
        f"{example} would be {found[0].stem}{suffix}.png, with the same folders below both"
    )


def _count(what: str, other: str, name: str, without: list[str], total: int) -> None:
    if without:
        examples = ", ".join(without[:3])
        _logger.warning(
            "Data set %s: %d of %d %s have no %s and are left out (%s%s)",
            *(name, len(without), total, what, other, examples, ", …" if len(without) > 3 else ""),
        )
