"""Reading the files of one sample, with errors that name the file, what is wrong and the remedy.

Detectron2 reads what it finds: a label id outside the classes ends as an index error on the GPU, in
another place and often in another process. Here every file is checked on the CPU, before any
augmentation could hide what is wrong with it.
"""

import os
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image, ImageOps

from ..errors import InputError

# What Pillow and json raise on a broken file, whichever its format.
_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)
_UNLISTED = -1
# What EXIF orientations that lay a picture on its side do to show it.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}
_LISTED = 10  # ids named in an error; a label map in the wrong format can have thousands


def describe_root() -> str:
    """The value of ``DETECTRON2_DATASETS`` now, for an error about a path."""
    value = os.environ.get("DETECTRON2_DATASETS")
    if value is None:
        return "DETECTRON2_DATASETS is not set: datasets in the working directory"
    is_folder = os.path.isdir(os.path.expanduser(value))
    return f"DETECTRON2_DATASETS is {value!r}" + ("" if is_folder else ", no folder")


@contextmanager
def naming(file_name: str, what: str) -> Iterator[None]:
    """Turns whatever reading a file raises into one sentence about the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"{what} {file_name} does not exist; restore it, or set DETECTRON2_DATASETS to the "
            f"folder that holds the data sets ({describe_root()})"
        ) from error
    except _UNDECODABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{what} {file_name} cannot be read ({reason}): it is truncated or in another format; "
            "replace the file, or take it out of the data set"
        ) from error


def picture_size(file_name: str) -> tuple[int, int]:
    """Height and width of a picture as it is displayed, from its header alone.

    Raises:
        InputError: the file is missing or broken.
    """
    with naming(file_name, "image"), Image.open(file_name) as image:
        width, height = image.size
        lies = image.getexif().get(0x112) in _TURNS
        return (width, height) if lies else (height, width)


def read_picture(file_name: str, image_format: str) -> np.ndarray:
    """The bytes [H, W, 3] of a picture file; of 16 bits grey, the upper eight.

    Args:
        file_name: any format of Pillow.
        image_format: ``"RGB"``, ``"BGR"`` or another of Detectron2's.

    Raises:
        InputError: the file is missing or broken, or its values have no known range.
    """
    with naming(file_name, "image"):
        file = PathManager.open(file_name, "rb")
    with file:
        return decode_picture(file, file_name, image_format)


def decode_picture(file: BinaryIO, name: str, image_format: str) -> np.ndarray:
    """The same of a picture in an open file, which messages call by a name.

    Raises:
        InputError: it is broken, or its values have no known range.
    """
    with naming(name, "image"), Image.open(file) as picture:
        mode = picture.mode
        if mode.startswith("I;16"):  # Pillow itself would cut at 255, and give white
            upper = (np.asarray(ImageOps.exif_transpose(picture)) >> 8).astype(np.uint8)
            return detection_utils.convert_PIL_to_numpy(Image.fromarray(upper), image_format)
        if mode not in ("I", "F"):
            upright = detection_utils._apply_exif_orientation(picture)
            return detection_utils.convert_PIL_to_numpy(upright, image_format)
    raise InputError(
        f"image {name} has mode {mode} of Pillow, whose values have no known range; convert it to "
        "8 or 16 bits a channel"
    )


def read_image(sample: dict[str, Any], image_format: str) -> np.ndarray:
    """The image [H, W, 3] of a sample; its ``height`` and ``width`` are filled in if missing."""
    file_name = sample["file_name"]
    image = read_picture(file_name, image_format)
    try:
        detection_utils.check_image_size(sample, image)
    except detection_utils.SizeMismatchError as error:
        expected = f"{sample['width']}x{sample['height']}"
        raise InputError(
            f"image {file_name} is {_size(image)} pixels (width x height), but its annotation says "
            f"{expected}; mend the annotation, or restore the image that was annotated"
        ) from error
    return image


class LabelValues(NamedTuple):
    """What the values of label files stand for."""

    labels: tuple[tuple[int, int], ...]
    """Pairs of a value and its class id or ignore label."""
    rest: int | None = None
    """The label of all other values; None: they are refused."""
    colors: bool = False
    """Whether values are colours, as :func:`pack_color` makes numbers of them."""

    def apply(self, file_name: str, values: np.ndarray) -> np.ndarray:
        """Labels [H, W], int32, of the values [H, W] of a file.

        Raises:
            InputError: a value is not listed.
        """
        numbers, labels = _lookup(self)
        outside = (values < 0) | (values >= len(numbers))
        found = labels[numbers[np.where(outside, 0, values)]]
        if outside.any():
            found[outside] = labels[0]
        if self.rest is None and (unlisted := found == _UNLISTED).any():
            name = (lambda value: str(unpack_color(value))) if self.colors else str
            raise InputError(
                f"label map {file_name} has values {listed(set(values[unlisted].tolist()), name)} "
                "that the description of its data set does not list; add them to a class or to "
                "`ignore`, or set `background: ignore`"
            )
        return found


@cache
def _lookup(values: LabelValues) -> tuple[np.ndarray, np.ndarray]:
    """The number of each value, 0 where it is not listed, and the label of each number."""
    size, kind = (2**24 if values.colors else 2**16), np.uint16
    numbers = np.zeros(size, kind)  # of the pages of zeros, only those that are read cost time
    numbers[[value for value, _ in values.labels]] = range(1, len(values.labels) + 1)
    others = _UNLISTED if values.rest is None else values.rest
    return numbers, np.array([others, *(label for _, label in values.labels)], np.int32)


def pack_color(color: tuple[int, int, int]) -> int:
    """R + 256 G + 65536 B of a colour."""
    red, green, blue = color
    return red + 256 * green + 65536 * blue


def unpack_color(value: int) -> list[int]:
    """The colour [R, G, B] of a number; see :func:`pack_color`."""
    return [value % 256, value // 256 % 256, value // 65536]


def read_values(file_name: str, in_colors: bool = False) -> np.ndarray:
    """The values [H, W] of a label file as they lie, before any of them is called a class.

    Args:
        file_name: an image file with 8, 16 or 32 bits a pixel, or one of colours.
        in_colors: whether values are colours; :func:`pack_color` tells the number of each.

    Raises:
        InputError: the file is missing or broken, or no index map where one is expected.
    """
    with naming(file_name, "label map"):
        values = detection_utils.read_image(file_name, "RGB" if in_colors else None)
    if in_colors:
        return rgb_to_id(values)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        found = "values of type " + str(values.dtype)
        if values.ndim != 2:
            found = f"{values.shape[2]} channels (RGB, RGBA or alike)"
        raise InputError(
            f"label map {file_name} has {found}, but one channel of integer class ids is expected "
            "(greyscale, palette or 16-bit); convert its colours to class ids, or name them in the "
            "description of the data set (`encoding: colors`)"
        )
    return values


def read_label_map(
    file_name: str,
    num_classes: int | None = None,
    ignore_label: int | None = None,
    values: LabelValues | None = None,
) -> np.ndarray:
    """A semantic label map: a file with one channel of class ids, a palette file included.

    Args:
        file_name: an image file with 8, 16 or 32 bits a pixel.
        num_classes: K; ids must be 0..K-1. None checks no ids.
        ignore_label: the one other id that is allowed.
        values: what the file's values stand for; None: they are class ids.

    Returns:
        [H, W]; uint8 where that holds the file's values and the ignore label, else int32.

    Raises:
        InputError: if the file is missing, broken, no index map, or has other ids.
    """
    labels = read_values(file_name, values is not None and values.colors)
    if values is not None:
        labels = values.apply(file_name, labels)
    is_narrow = labels.dtype.itemsize == 1 or (values is not None and num_classes is not None)
    is_narrow = is_narrow and 0 <= (ignore_label or 0) < 256 and (num_classes or 0) < 256
    labels = labels.astype(np.uint8 if is_narrow else np.int32, copy=False)
    if num_classes is None:
        return labels
    outside = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_label)
    if ids := set(labels[outside].tolist()):
        raise InputError(
            f"label map {file_name} has ids {listed(ids)}, but the classes are 0 to "
            f"{num_classes - 1} and the ignore label is {ignore_label}; map the file's ids to "
            "these, or set MODEL.SEM_SEG_HEAD.NUM_CLASSES and the data set's ignore_label to fit"
        )
    return labels


def as_displayed(
    label_file: str, labels: np.ndarray, image_file: str, image: np.ndarray
) -> np.ndarray:
    """The label map [H, W], turned as its image [H, W, ...] is where it lies as that is stored.

    Cameras store some pictures lying on their side, and EXIF tells how to show them. Whether labels
    were drawn on the shown or on the stored picture, their size tells.

    Raises:
        InputError: the label map has the size of neither.
    """
    turned = labels.shape[::-1] == image.shape[:2] != labels.shape
    if turned and (turn := _TURNS.get(orientation(image_file))):
        return np.ascontiguousarray(turn(labels))
    check_same_size(label_file, labels, image_file, image)
    return labels


def orientation(image_file: str) -> int:
    """The EXIF orientation of a picture file; 1 where it has none, and is shown as it is stored."""
    with naming(image_file, "image"), Image.open(image_file) as picture:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)


def check_same_size(
    label_file: str, labels: np.ndarray, image_file: str, image: np.ndarray
) -> None:
    """Refuses a label map whose height and width are not those of its image."""
    if labels.shape[:2] != image.shape[:2]:
        raise InputError(
            f"label map {label_file} is {_size(labels)} pixels (width x height), but its image "
            f"{image_file} is {_size(image)}; they must be equal: prepare the data set again, or "
            "restore the file that was resized"
        )


def rgb_to_id(colors: np.ndarray) -> np.ndarray:
    """Segment ids [H, W], int32, of the colours [H, W, 3], uint8, of a panoptic PNG."""
    with_zero = cv2.cvtColor(np.ascontiguousarray(colors), cv2.COLOR_RGB2RGBA)
    with_zero[..., 3] = 0
    return with_zero.view("<i4")[..., 0]


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Colours [H, W, 3], uint8, of segment ids [H, W]; see :func:`rgb_to_id`."""
    return np.ascontiguousarray(ids, "<i4").view(np.uint8).reshape(*ids.shape, 4)[..., :3].copy()


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def listed(ids: Collection[int], name: Callable[[int], str] = str) -> str:
    """The lowest ids for a message, and how many more there are."""
    named = ", ".join(name(value) for value in sorted(ids)[:_LISTED])
    more = len(ids) - _LISTED
    return f"{named} and {more} more" if more > 0 else named
