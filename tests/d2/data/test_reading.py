"""Every kind of bad file is told in one sentence that names it."""

from pathlib import Path

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import ExifTags, Image, ImageOps

from mask_former.d2.data.reading import (
    as_displayed,
    check_same_size,
    id_to_rgb,
    naming,
    read_image,
    read_label_map,
    read_picture,
    rgb_to_id,
)
from mask_former.d2.errors import InputError


def told(error: pytest.ExceptionInfo[InputError], *parts: str) -> bool:
    """Whether an error is one line that has all the parts."""
    message = str(error.value)
    return "\n" not in message and all(part in message for part in parts)


def test_image_is_read_in_the_format_and_its_size_filled_in(semantic_sample, image):
    sample = {"file_name": semantic_sample["file_name"]}

    assert np.array_equal(read_image(sample, "BGR"), image[:, :, ::-1])
    assert (sample["width"], sample["height"]) == (40, 30)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_grey_read_as_their_upper_byte(save, labels, suffix: str):
    path = save(f"grey.{suffix}", labels.astype(np.uint16) * 257)

    read = read_picture(path, "RGB")

    assert read.dtype == np.uint8
    assert np.array_equal(read, labels[:, :, None].repeat(3, 2))
    assert np.array_equal(read_image({"file_name": path}, "BGR"), read)


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_values_without_a_known_range_are_refused(save, labels, kind: type, mode: str):
    path = save("picture.tif", labels.astype(kind))

    with pytest.raises(InputError) as error:
        read_picture(path, "RGB")

    assert told(error, path, f"mode {mode}", "convert it to 8 or 16 bits")


def test_missing_image_names_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    path = str(tmp_path / "a.jpg")

    with pytest.raises(InputError) as error:
        read_image({"file_name": path}, "RGB")

    assert told(error, path, "does not exist", "DETECTRON2_DATASETS is '/nowhere', no folder")


def test_missing_image_without_a_root_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)

    with pytest.raises(InputError) as error:
        read_image({"file_name": str(tmp_path / "a.jpg")}, "RGB")

    assert told(error, "DETECTRON2_DATASETS is not set")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image(save, image, kept: float, suffix: str):
    path = save(f"image.{suffix}", image)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])

    with pytest.raises(InputError) as error:
        read_image({"file_name": path}, "RGB")

    assert told(error, path, "cannot be read", "truncated", "replace the file")


def test_image_that_is_no_picture(tmp_path: Path):
    path = tmp_path / "image.jpg"
    path.write_text("404: not found")

    with pytest.raises(InputError) as error:
        read_image({"file_name": str(path)}, "RGB")

    assert told(error, str(path), "cannot be read")


def test_a_sentence_within_a_sentence_stands_alone():
    inner, outer = naming("inner.csv", "table"), naming("outer.csv", "table")
    with pytest.raises(InputError) as error, outer, inner:
        int("seven")

    assert told(error, "table inner.csv cannot be read (invalid literal")
    assert "outer" not in str(error.value)


def test_image_of_another_size_than_annotated(semantic_sample):
    sample = {"file_name": semantic_sample["file_name"], "width": 30, "height": 40}

    with pytest.raises(InputError) as error:
        read_image(sample, "RGB")

    assert told(error, sample["file_name"], "40x30 pixels", "says 30x40")


def test_label_map_is_read_from_greyscale_palette_and_16_bits(save, labels):
    palette = Image.fromarray(labels)
    palette.putpalette(list(range(256)) * 3)
    assert palette.mode == "P"
    wide = labels.astype(np.uint16) * 256
    files = {
        save("grey.png", labels): labels,
        save("palette.png", palette): labels,
        save("wide.png", wide): wide,
        save("wide.tif", wide): wide,
        save("bits.png", Image.fromarray(labels == 1)): labels == 1,
    }

    for path, expected in files.items():
        read = read_label_map(path)
        assert read.dtype == (np.int32 if "wide" in path else np.uint8)
        assert np.array_equal(read, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_label_map_with_colours_is_refused(save, labels, mode: str):
    path = save("labels.tif", Image.fromarray(labels).convert(mode))
    found = {"F": "values of type float32", "LA": "2 channels", "RGB": "3 channels"}

    with pytest.raises(InputError) as error:
        read_label_map(path, 3, 255)

    expected = "one channel of integer class ids"
    assert told(error, path, found.get(mode, "4 channels"), expected, "convert")


def test_truncated_label_map(save, labels):
    path = save("labels.png", labels)
    Path(path).write_bytes(Path(path).read_bytes()[:-200])

    with pytest.raises(InputError) as error:
        read_label_map(path)

    assert told(error, path, "cannot be read")


@pytest.mark.parametrize(("num_classes", "ignore"), [(3, 255), (256, 255), (256, 0), (None, 255)])
def test_ids_of_classes_and_the_ignore_label_are_allowed(save, labels, num_classes, ignore):
    path = save("labels.png", labels)

    assert np.array_equal(read_label_map(path, num_classes, ignore), labels)


def test_label_ids_outside_the_classes(save, labels):
    path = save("labels.png", labels)

    with pytest.raises(InputError) as error:
        read_label_map(path, 2, 11)

    assert told(error, path, "ids 2, 255", "0 to 1", "ignore label is 11", "NUM_CLASSES")


@pytest.mark.parametrize("ignore", [-1, 65535])
def test_a_map_of_bytes_can_take_an_ignore_label_that_is_none(save, labels, ignore):
    read = read_label_map(save("labels.png", labels), None, ignore)

    assert read.dtype == np.int32
    assert np.array_equal(read, labels)


def test_many_label_ids_outside_are_counted(save):
    path = save("labels.png", np.arange(256, dtype=np.uint8).reshape(16, 16))

    with pytest.raises(InputError) as error:
        read_label_map(path, 10, 255)

    assert told(error, "ids 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 235 more")


def test_sizes_must_agree(image):
    check_same_size("a.png", image[..., 0], "a.jpg", image)

    with pytest.raises(InputError) as error:
        check_same_size("a.png", image[:10, :, 0], "a.jpg", image)

    assert told(error, "a.png is 40x10", "a.jpg is 40x30")


def test_ids_of_colours_are_those_of_panopticapi(image):
    assert rgb_to_id(np.array([[[1, 2, 3]]], dtype=np.uint8)).tolist() == [[1 + 512 + 196608]]
    assert np.array_equal(rgb_to_id(image), rgb2id(image))
    assert np.array_equal(id_to_rgb(rgb_to_id(image)), image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_as_stored_are_turned_as_their_picture(save, image, labels, orientation: int):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = save("image.png", Image.fromarray(image), exif=exif)
    stored = Image.fromarray(labels)
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    displayed = np.asarray(ImageOps.exif_transpose(stored))
    shown = read_picture(path, "RGB")
    assert shown.shape[:2] == displayed.shape

    assert np.array_equal(as_displayed("labels.png", displayed, path, shown), displayed)
    if orientation > 4:
        assert np.array_equal(as_displayed("labels.png", labels, path, shown), displayed)
        with pytest.raises(InputError, match=r"labels.png is 39x30 pixels"):
            as_displayed("labels.png", labels[:, 1:], path, shown)


def test_labels_that_lie_on_their_side_without_exif_are_refused(save, image, labels):
    path = save("image.png", image)

    with pytest.raises(InputError, match=r"labels.png is 30x40 pixels"):
        as_displayed("labels.png", labels.T, path, image)
