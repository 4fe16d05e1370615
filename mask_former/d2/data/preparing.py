"""What the preparation scripts share: folders, work on all cores, checks of what was written.

A file is written under another name and moved into place, so that whatever has its own name is
whole. A run after a kill keeps the files that pass their check.
"""

import argparse
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from ..command_line.arguments import positive
from ..errors import InputError
from .reading import describe_root, naming

Item = TypeVar("Item")
Result = TypeVar("Result")
Size = tuple[int, int]  # width and height, as Pillow has them

_MAX_CHUNK = 16  # images that a worker fetches at once


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with ``--workers``; ``description`` is the docstring of the script."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = os.cpu_count() or 1
    made.add_argument(
        "--workers", type=positive, default=cores, help=f"processes (default: all {cores} cores)"
    )
    return made


@contextmanager
def telling_errors() -> Iterator[None]:
    """Ends the program with one sentence, instead of a traceback, where the user can mend it."""
    try:
        yield
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        raise SystemExit(f"error: a file cannot be read or written: {error}") from error


def source(*parts: str) -> Path:
    """A folder or file of a data set as downloaded, below ``DETECTRON2_DATASETS``.

    Raises:
        InputError: there is none.
    """
    path = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"), *parts).expanduser()
    if not path.exists():
        raise InputError(
            f"{path} does not exist; put what --help lists there, or set DETECTRON2_DATASETS to "
            f"the folder that holds the data sets ({describe_root()})"
        )
    return path


def present_splits(folder: Path, splits: Collection[str]) -> list[str]:
    """The splits that have a folder in ``folder``; says which have none.

    Raises:
        InputError: none has.
    """
    present = [split for split in splits if (folder / split).is_dir()]
    if not present:
        raise InputError(
            f"{folder} has none of the folders {', '.join(splits)}; unpack the data set there, or "
            f"set DETECTRON2_DATASETS to the folder that holds the data sets ({describe_root()})"
        )
    for split in splits:
        if split not in present:
            print(f"{folder / split} does not exist: the split is left out")
    return present


def files_of(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder in the order of their names.

    Raises:
        InputError: there is none.
    """
    found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if not found:
        raise InputError(f"{folder} has no files {pattern}; unpack the data set again")
    return found


def in_parallel(
    prepare: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str
) -> list[Result]:
    """What ``prepare`` gives for each item, in their order; see ``as_they_come``."""
    return list(as_they_come(prepare, items, workers, title))


def as_they_come(
    prepare: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str
) -> Iterator[Result]:
    """What ``prepare`` gives for each item, in their order, with a progress bar.

    Args:
        prepare: a function of the script that runs, or of a module that can be imported.
        items: the work.
        workers: processes; 1: this one alone.
        title: the title of the progress bar.

    Raises:
        InputError: that of the first item that has one, or a worker was killed.
    """

    def shown(results: Iterator[Result]) -> Iterator[Result]:
        return iter(tqdm(results, total=len(items), desc=title, unit="image"))

    if workers == 1:
        yield from shown(map(prepare, items))
        return
    chunk = max(1, min(_MAX_CHUNK, len(items) // (4 * workers)))
    # Workers start from a fresh process: forked from one with threads, they may hang.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # the imports that take long, once for all
    try:
        with ProcessPoolExecutor(workers, context, _start_worker) as pool:
            yield from shown(pool.map(prepare, items, chunksize=chunk))
    except BrokenProcessPool as error:
        raise InputError(
            f"{title}: a worker was killed, as the system does when memory runs out; run this "
            f"again with fewer than --workers {workers}: what is finished is kept"
        ) from error


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells about Ctrl-C, once
    cv2.setNumThreads(1)  # there is a worker for each core already
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker must not go on writing when its parent was killed and is started again."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; what is there when the block ends becomes ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # others may prepare as well
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def save(picture: np.ndarray, path: Path, image_format: str) -> None:
    """Writes a picture or label map; ``image_format`` as in Pillow."""
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, image_format)


def write_unless_good(write: Callable[[], object], check: Callable[[], object]) -> None:
    """Writes what does not pass its check yet, and checks it then.

    Args:
        write: makes the files.
        check: raises InputError.
    """
    try:
        check()
    except InputError:
        write()
        check()


def read(path: Path, what: str) -> np.ndarray:
    """The values of an image file: [H, W] of index and palette files, [H, W, 3] of colours.

    Raises:
        InputError: it is missing or broken.
    """
    with naming(str(path), what), Image.open(path) as picture:
        return np.asarray(picture)


def read_rgb(path: Path) -> np.ndarray:
    """An image [H, W, 3]; uint8.

    Raises:
        InputError: it is missing or broken.
    """
    with naming(str(path), "image"), Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def read_indices(path: Path) -> np.ndarray:
    """A label map of bytes [H, W], uint8, as downloaded.

    Raises:
        InputError: it is missing, broken, or has another format.
    """
    labels = read(path, "label map")
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise InputError(
            f"label map {path} has values of type {labels.dtype} in the shape {labels.shape}, but "
            "one channel of bytes is expected (greyscale or palette); unpack the data set again"
        )
    return labels


def image_size(path: Path) -> Size:
    """Width and height, from the head of the file."""
    with naming(str(path), "image"), Image.open(path) as picture:
        return picture.size


def check_image(path: Path, size: Size) -> None:
    """Refuses a prepared image that cannot be decoded or has another size."""
    height, width = read(path, "image").shape[:2]
    check_size(path, (width, height), size)


def check_labels(
    path: Path,
    made_from: Path,
    expected: np.ndarray,
    size: Size,
    num_classes: int,
    ignore_label: int,
) -> None:
    """Refuses a prepared label map that was not made so, or with ids outside the classes.

    Args:
        path: the prepared file.
        made_from: the file to blame.
        expected: [H, W]; what the conversion gives.
        size: height and width of its image.
        num_classes: K; ids must be 0..K-1.
        ignore_label: the one other id that is allowed.
    """
    labels = read(path, "label map")
    check_size(made_from, (labels.shape[1], labels.shape[0]), size)
    wrong = set(np.unique(labels).tolist()) - {*range(num_classes), ignore_label}
    if wrong:
        raise InputError(
            f"label map {path}, made from {made_from}, has ids {', '.join(map(str, sorted(wrong)))}"
            f", but the classes are 0 to {num_classes - 1} and the ignore label is {ignore_label}; "
            "unpack the data set again, in the release that the script names (--help)"
        )
    if not np.array_equal(labels, expected):
        raise InputError(f"label map {path} is not what {made_from} gives; remove it")


def check_size(path: Path, found: Size, expected: Size) -> None:
    """Refuses a file whose width and height are not those expected."""
    if found != expected:
        raise InputError(
            f"{path} is {found[0]}x{found[1]} pixels (width x height), but {expected[0]}x"
            f"{expected[1]} is expected; unpack the data set again"
        )


def check_folder(folder: Path, names: Collection[str]) -> None:
    """Refuses a prepared folder with fewer or other files than were prepared.

    Args:
        folder: files that start with a dot or have another suffix do not count.
        names: names of all files that were prepared.
    """
    suffixes = {Path(name).suffix for name in names}
    entries = {path.name for path in folder.iterdir() if path.suffix in suffixes}
    found = {name for name in entries if not name.startswith(".")}
    if missing := sorted(set(names) - found):
        raise InputError(
            f"{len(missing)} of {len(names)} files are gone again, {folder / missing[0]} the first "
            "of them; run this again, once at a time"
        )
    if strange := sorted(found - set(names)):
        raise InputError(
            f"{folder / strange[0]} was not prepared from this data set (so are {len(strange)} of "
            f"{len(found)} files); take them away and run this again"
        )


def report(folder: Path, count: int, released: int) -> None:
    """Says what was prepared and verified, and whether that is all of the release."""
    whole = "" if count == released else f" (the release has {released})"
    print(f"{folder}: {count} files verified{whole}")
