"""Which pictures and label maps of a folder belong together: roles and splits by name."""

import bisect
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from ..data.pairing import LABEL_EXTENSIONS, LOSSY_EXTENSIONS, PICTURE_EXTENSIONS, walk
from ..errors import InputError

_ROLES = {
    "images": "image images img imgs jpegimages leftimg8bit rgb photo photos picture pictures",
    "labels": (
        "label labels mask masks annotation annotations annot ann anns gt gtfine groundtruth seg "
        "segmentation segmentations segmentationclass semantic target targets"
    ),
}
_SPLITS = {"train": "train training", "val": "val valid validation dev", "test": "test testing"}
_WORDS = {
    word: (kind, meaning)
    for kind, table in (("role", _ROLES), ("split", _SPLITS))
    for meaning, words in table.items()
    for word in words.split()
}
_GLUED = re.compile(rf"({'|'.join(_WORDS)})({'|'.join(_WORDS)})")  # as in trainannot
# Of several label maps of a picture, as Cityscapes has them, the first of these is taken.
_PREFERRED = ("labeltrainids", "labelids", "mask", "label", "seg", "gt")


class File(NamedTuple):
    """A file of a folder, and what the names of its folders say."""

    path: str
    """Below the folder."""
    role: str | None
    """``"images"`` or ``"labels"``."""
    split: str | None
    root: str | None
    """The folders that say role and split, and all above them; None: a list says the split."""
    rest: str
    """The path without extension, and without the folders that say role or split."""
    size: int = 0
    """Bytes."""


class Found(NamedTuple):
    """The pictures of a split and their label maps."""

    pairs: list[tuple[str, str | None]]
    """Paths below the folder, in the order of the pictures' names."""
    images: str
    """The folder below which all pictures lie."""
    labels: str
    """The folder below which all label maps lie."""
    image_suffix: str
    label_suffix: str
    is_regular: bool
    """Whether the two folders and the suffixes alone give the pairs; else a list must."""
    orphans: list[str]
    """Label maps without a picture."""


def find_splits(folder: str) -> dict[str, Found]:
    """The pairs of a folder by split; those of no split under ``""``. None: no label map is there.

    Args:
        folder: searched with all its folders.
    """
    extensions = tuple(dict.fromkeys(PICTURE_EXTENSIONS + LABEL_EXTENSIONS))
    files = [_file(folder, path) for path in sorted(walk(folder, extensions))]
    images, labels = _by_role(files)
    listed = _listed_splits(folder)
    images, labels = ([_resplit(file, listed) for file in each] for each in (images, labels))
    suffixes = _suffixes(images, labels)
    splits = {}
    for split in dict.fromkeys(file.split or "" for file in images):
        ours = [file for file in images if (file.split or "") == split]
        theirs = [file for file in labels if (file.split or "") == split]
        splits[split] = _paired(ours, theirs, *suffixes)
    is_labelled = any(labels for found in splits.values() for _, labels in found.pairs)
    return {split: found for split, found in splits.items() if found.pairs} if is_labelled else {}


def listed_without_picture(folder: str, splits: Mapping[str, Found]) -> list[str]:
    """The names in text files of splits that no picture of the splits has."""
    images = (image for found in splits.values() for image, _ in found.pairs)
    stems = {os.path.splitext(os.path.basename(image))[0] for image in images}
    return [stem for stem in _listed_splits(folder) if stem not in stems]


def why_not_paired(folder: str) -> str:
    """What is wrong with a folder that has pictures and label maps, by the names of their folders.

    Returns:
        The end of a sentence that begins with the folder; empty if it has none of the one kind.
    """
    found: dict[str, list[str]] = {role: [] for role in _ROLES}
    for path in sorted(walk(folder, PICTURE_EXTENSIONS)):
        if role := named_role(path):
            found[role].append(path)
    images, labels = found["images"], found["labels"]
    if not (images and labels):
        return ""
    if all(path.lower().endswith(LOSSY_EXTENSIONS) for path in labels):
        return (
            f"label maps such as {labels[0]}, whose format changes values; write them anew as PNG"
        )
    return (
        f"{len(images)} pictures such as {images[0]} and {len(labels)} label maps such as "
        f"{labels[0]}, but no label map has the name of a picture; rename them, with the same "
        "folders (train, val) below both"
    )


def named_split(path: str) -> str:
    """The split that the folders of a path name; empty: none does."""
    return _named(path, "split")


def named_role(path: str) -> str:
    """``"images"`` or ``"labels"``, as the folders of a path say; empty: none does."""
    return _named(path, "role")


def _named(path: str, kind: str) -> str:
    found = ""
    for part in os.path.dirname(path).split(os.sep):
        meanings = dict(_WORDS[word] for word in _words(part) if word in _WORDS)
        found = meanings.get(kind, found)
    return found


def lie_among_pictures(splits: dict[str, Found]) -> bool:
    """Whether what was taken for label maps may be pictures: of one folder and one extension."""
    return any(
        os.path.dirname(image) == os.path.dirname(labels)
        and os.path.splitext(image)[1] == os.path.splitext(labels)[1]
        for found in splits.values()
        for image, labels in found.pairs
        if labels is not None
    )


def _file(folder: str, path: str) -> File:
    parts = path.split(os.sep)
    role = split = None
    rest, depth = [], 0
    for i, part in enumerate(parts[:-1]):
        meanings = dict(_WORDS[word] for word in _words(part) if word in _WORDS)
        role, split = meanings.get("role", role), meanings.get("split", split)
        if meanings:
            depth = i + 1
        else:
            rest.append(part)
    stem = os.path.splitext(parts[-1])[0]
    return File(
        path,
        role,
        split,
        os.path.join(*parts[:depth], ""),
        os.path.join(*rest, stem),
        os.path.getsize(os.path.join(folder, path)),
    )


def _listed_splits(folder: str) -> dict[str, str]:
    """The split of each stem that a text file lists, as VOC's ``Segmentation/train.txt`` does."""
    found: dict[str, str] = {}
    listing: dict[tuple[str, str], str] = {}
    for path in sorted(walk(folder, (".txt",))):
        split = _WORDS.get(os.path.splitext(os.path.basename(path))[0].lower(), ("", ""))
        if split[0] != "split":
            continue
        with open(os.path.join(folder, path), encoding="utf-8", errors="replace") as file:
            for line in file:
                if not (words := line.split()):
                    continue
                stem = os.path.splitext(os.path.basename(words[0]))[0]
                first = listing.setdefault((os.path.dirname(path), stem), path)
                if first != path and "train" in (found[stem], split[1]) and found[stem] != split[1]:
                    raise InputError(
                        f"{first} and {path} of {folder} both list {stem}; what is trained on "
                        "tells nothing when it is evaluated: take it out of one"
                    )
                found[stem] = split[1]  # of several folders, as VOC has them, the last
    return found


def _resplit(file: File, listed: dict[str, str]) -> File:
    split = listed.get(os.path.splitext(os.path.basename(file.path))[0])
    return (
        file if split is None or file.split is not None else file._replace(split=split, root=None)
    )


def _words(part: str) -> list[str]:
    words = re.findall(r"[a-z0-9]+", part.lower())
    glued = [_GLUED.fullmatch(word) for word in words]
    return [w for word, match in zip(words, glued, strict=True) for w in _halves(word, match)]


def _halves(word: str, match: re.Match[str] | None) -> list[str]:
    # "2017" of train2017 says nothing.
    return list(match.groups()) if match else [word, word.rstrip("0123456789")]


def _by_role(files: list[File]) -> tuple[list[File], list[File]]:
    """Pictures and label maps."""
    images = [file for file in files if file.role == "images"]
    labels = [file for file in files if file.role == "labels"]
    others = [file for file in files if file.role is None]
    if images and not labels:
        labels = _below_any_folder(_lossless(others), images)
    elif not images and labels:
        # Without others, both lie side by side in one folder, told apart by a suffix.
        images = _below_any_folder(others, labels) or labels
    elif not images:
        images, labels = _unnamed(others)
    return [f for f in images if f.path.lower().endswith(PICTURE_EXTENSIONS)], _lossless(labels)


def _below_any_folder(files: list[File], others: list[File]) -> list[File]:
    """Files whose folder has a name that says nothing, matched with those of a folder that does."""
    stems = {file.rest for file in others}
    matched = []
    for file in files:
        top, _, rest = file.rest.partition(os.sep)
        is_below = file.rest not in stems and rest in stems
        root = os.path.join(file.root or "", top, "")
        matched.append(file._replace(root=root, rest=rest) if is_below else file)
    return matched


def _lossless(files: list[File]) -> list[File]:
    return [file for file in files if file.path.lower().endswith(LABEL_EXTENSIONS)]


def _unnamed(files: list[File]) -> tuple[list[File], list[File]]:
    """Pictures and label maps whose folders say nothing.

    Two folders with the same names hold one kind each: photographs are seldom lossless, and if both
    are, label maps are the smaller files. Else both lie side by side.
    """
    folders: dict[str, list[File]] = defaultdict(list)
    for file in files:
        top, _, rest = file.rest.partition(os.sep)
        folders[top if rest else ""].append(file._replace(root=f"{top}/", rest=rest or file.rest))
    if len(folders) != 2 or "" in folders:
        return files, _lossless(files)
    one, two = folders.values()
    if not {file.rest for file in one} & {file.rest for file in two}:
        return files, _lossless(files)
    images, labels = sorted((one, two), key=lambda f: len(_lossless(f)) / len(f))
    if len(_lossless(images)) == len(images):
        images, labels = sorted((one, two), key=lambda f: -sum(file.size for file in f))
    return images, labels


def _suffixes(images: list[File], labels: list[File]) -> tuple[str, str]:
    """The ends of stems that are left off before pictures and label maps are compared."""
    paths = {file.rest: file.path for file in images}
    common = sum(paths.get(file.rest, file.path) != file.path for file in labels)
    if 2 * common >= min(len(images), len(labels)):
        return "", ""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for rest in sorted(paths):
        by_folder[os.path.dirname(rest)].append(rest)
    votes: Counter[tuple[str, str]] = Counter()
    for file in labels:
        near = _nearest(file.rest, by_folder[os.path.dirname(file.rest)])
        if near is not None and (prefix := _shared(near, file.rest)):
            votes[near[len(prefix) :], file.rest[len(prefix) :]] += 1
    possible = [pair for pair in votes if pair[0] != pair[1]]
    most = max((votes[pair] for pair in possible), default=0)
    best = [pair for pair in possible if votes[pair] >= 0.9 * most]
    return min(best, key=_preference, default=("", ""))


def _nearest(rest: str, stems: list[str]) -> str | None:
    """Of sorted names, the one that shares the longest beginning with that of a label map."""
    place = bisect.bisect_left(stems, rest)
    near = [stem for stem in stems[max(place - 1, 0) : place + 2] if stem != rest]
    return max(near, key=lambda stem: len(_shared(stem, rest)), default=None)


def _shared(one: str, two: str) -> str:
    """The beginning that two names share, up to where a part of a name begins that differs."""
    pairs = zip(one, two, strict=False)
    prefix = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return prefix if prefix in (one, two) else re.sub(r"[_\-. ]*[^_\-. /]*$", "", prefix)


def _preference(pair: tuple[str, str]) -> tuple[int, int, str]:
    words = pair[1].lower()
    ranks = [i for i, word in enumerate(_PREFERRED) if word in words]
    return (min(ranks, default=len(_PREFERRED)), len(words), words)


def _paired(images: list[File], labels: list[File], image_suffix: str, label_suffix: str) -> Found:
    maps = {f.rest.removesuffix(label_suffix): f for f in labels if f.rest.endswith(label_suffix)}
    pictures = {
        f.rest.removesuffix(image_suffix): f
        for f in images
        if f.rest.endswith(image_suffix) and not (label_suffix and f.rest.endswith(label_suffix))
    }
    pairs = [
        (picture.path, maps[stem].path if stem in maps else None)
        for stem, picture in sorted(pictures.items())
    ]
    image_roots = {picture.root for picture in pictures.values()}
    label_roots = {label.root for label in maps.values()}
    is_regular = len(image_roots) == 1 >= len(label_roots) and all(
        f.root is not None and os.path.splitext(f.path)[0] == os.path.join(f.root, f.rest)
        for f in [*pictures.values(), *maps.values()]
    )
    roots = [str(next(iter(f), "")).rstrip(os.sep) or "." for f in (image_roots, label_roots)]
    roots = roots if is_regular else [".", "."]
    orphans = [label.path for stem, label in sorted(maps.items()) if stem not in pictures]
    return Found(pairs, roots[0], roots[1], image_suffix, label_suffix, is_regular, orphans)
