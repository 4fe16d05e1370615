"""Panoptic maps that fit their segments, and one sentence for those that do not."""

from pathlib import Path

import numpy as np
import pytest

from mask_former.d2.data.annotations import read_panoptic_map, without_crowds
from mask_former.d2.data.reading import id_to_rgb, rgb_to_id
from mask_former.d2.errors import InputError
from tests.d2.data.test_reading import told


def test_panoptic_map_that_fits(save, colors, segments):
    ids, numbers = read_panoptic_map(save("pan.png", colors), segments, 3)

    assert np.array_equal(ids, rgb_to_id(colors))
    assert numbers.dtype == np.uint8
    assert np.array_equal(numbers, np.where(ids == 258, 1, np.where(ids == 1, 2, 0)))


def test_crowds_count_as_listed(save, colors, segments):
    segments[0]["iscrowd"] = 1
    del segments[1]["iscrowd"]

    ids, numbers = read_panoptic_map(save("pan.png", colors), segments, 3)

    assert np.array_equal(numbers, np.where(ids == 1, 1, np.where(ids == 258, 2, 0)))
    assert without_crowds(segments) == segments[1:]


def test_more_segments_than_bytes_can_number(save):
    ids = np.arange(300).reshape(10, 30)
    path = save("pan.png", id_to_rgb(ids))
    segments = [{"id": i, "category_id": 0} for i in range(299, 0, -1)]

    numbers = read_panoptic_map(path, segments).numbers

    assert numbers.dtype == np.int16
    assert numbers.ravel().tolist() == [0, *range(299, 0, -1)]


def test_missing_panoptic_map(tmp_path: Path, segments):
    with pytest.raises(InputError) as error:
        read_panoptic_map(str(tmp_path / "pan.png"), segments, 3)

    assert told(error, "panoptic map", "pan.png does not exist")


def test_panoptic_id_that_the_json_does_not_list(save, colors, segments):
    path = save("pan.png", colors)

    with pytest.raises(InputError) as error:
        read_panoptic_map(path, segments[1:], 3)

    assert told(error, path, "segment ids 258", "does not list")


@pytest.mark.parametrize("isthing", [True, False])
def test_listed_panoptic_id_that_no_pixel_has(save, colors, segments, isthing):
    path = save("pan.png", colors)
    extra = {"id": 77, "category_id": 0, "iscrowd": 0, "isthing": isthing}

    with pytest.raises(InputError) as error:
        read_panoptic_map(path, [*segments, extra], 3)

    assert told(error, path, "lists segment ids 77 that no pixel has")


@pytest.mark.parametrize(
    ("isthing", "box", "area", "is_fine"),
    [
        (False, [25, 0, 10, 10], 100, True),  # the thing fills the box
        (False, [15, 0, 10, 10], 40, True),  # columns 21 to 24 of it
        (False, [15, 0, 10, 10], 41, False),
        (True, [25, 0, 10, 10], 100, False),
    ],
)
def test_stuff_may_be_covered_by_things_and_stay_listed(
    save, colors, segments, isthing, box, area, is_fine
):
    path = save("pan.png", colors)
    gone = {"id": 9, "category_id": 1, "iscrowd": 0, "isthing": isthing, "bbox": box, "area": area}

    if is_fine:
        assert np.array_equal(read_panoptic_map(path, [*segments, gone], 3).ids, rgb_to_id(colors))
    else:
        with pytest.raises(InputError, match="lists segment ids 9"):
            read_panoptic_map(path, [*segments, gone], 3)


def test_categories_outside_the_classes(save, colors, segments):
    path = save("pan.png", colors)

    with pytest.raises(InputError) as error:
        read_panoptic_map(path, segments, 2)

    assert told(error, path, "category_id 2", "0 to 1", "NUM_CLASSES")
    assert np.array_equal(read_panoptic_map(path, segments).ids, rgb_to_id(colors))


@pytest.mark.parametrize("key", ["id", "category_id"])
def test_segment_without_a_key(save, colors, segments, key: str):
    del segments[1][key]
    path = save("pan.png", colors)

    with pytest.raises(InputError) as error:
        read_panoptic_map(path, segments, 3)

    assert told(error, path, f"lacks {key}")


def test_two_segments_of_one_id(save, colors, segments):
    path = save("pan.png", colors)

    with pytest.raises(InputError) as error:
        read_panoptic_map(path, [*segments, {**segments[0], "category_id": 1}], 3)

    assert told(error, path, "have the ids 258 more than once")


@pytest.mark.parametrize(
    ("key", "value"), [("id", "258"), ("id", 2**24), ("id", 0), ("iscrowd", "no")]
)
def test_segment_with_another_kind_of_value(save, colors, segments, key: str, value: object):
    path = save("pan.png", colors)
    segments[0][key] = value

    with pytest.raises(InputError) as error:
        read_panoptic_map(path, segments, 3)

    assert told(error, path, repr(value), "whole number from 1 to 2^24 - 1 and iscrowd 0 or 1")
