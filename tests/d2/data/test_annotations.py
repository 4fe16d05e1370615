"""Polygons and run lengths painted, and what is refused."""

import logging

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mask_former.d2.data.annotations import paint
from mask_former.d2.errors import InputError

SIZE = (6, 8)
SQUARE = [2, 1, 5, 1, 5, 4, 2, 4]  # x, y of four corners


def annotation(segmentation: object, category: object = 0, **rest: object) -> dict:
    return {"category_id": category, "segmentation": segmentation, **rest}


def square() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[1:4, 2:5] = 1
    return mask


def run_lengths(compressed: bool) -> dict:
    if compressed:
        return coco_mask.encode(np.asfortranarray(square()))
    # Down the columns: 13 zeros, then three columns of three with three zeros between.
    return {"size": list(SIZE), "counts": [13, 3, 3, 3, 3, 3, 20]}


@pytest.mark.parametrize("segmentation", [[SQUARE], run_lengths(True), run_lengths(False)])
def test_one_square(segmentation):
    painted = paint([annotation(segmentation)], "a.jpg", SIZE)
    assert painted.masks.dtype == np.uint8
    assert np.array_equal(painted.masks, square()[None])


def test_parts_of_one_annotation_are_joined():
    parts = [SQUARE, [6, 0, 8, 0, 8, 2, 6, 2]]
    expected = square()
    expected[:2, 6:] = 1
    assert np.array_equal(paint([annotation(parts)], "a.jpg", SIZE).masks[0], expected)


def test_crowds_and_what_has_no_pixel_are_left_out(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mask_former"), "propagate", True)
    kept = annotation([SQUARE], 3)
    others = [
        annotation([SQUARE], iscrowd=1),
        annotation([[1, 1, 1, 1, 1, 1]]),
        annotation([]),
        annotation({"size": list(SIZE), "counts": [48]}),
    ]
    painted = paint([*others, kept], "a.jpg", SIZE)
    assert painted.annotations == [kept]
    assert painted.masks.shape == (1, *SIZE)
    assert not painted.ignored.any()
    assert "annotation 1 of image a.jpg has no pixel" in caplog.text


@pytest.mark.parametrize("segmentation", [[SQUARE], run_lengths(True), run_lengths(False)])
def test_a_crowd_is_ignored_where_it_is_nothing_else(segmentation):
    right = annotation([[4, 0, 8, 0, 8, 6, 4, 6]])
    crowds = [annotation(segmentation, iscrowd=1), {"iscrowd": 1, "bbox": [0, 0, 9, 9]}]
    crowds.append(annotation([[0, 5, 1, 5, 1, 6, 0, 6]], category=99, iscrowd=1))
    painted = paint([*crowds, right], "a.jpg", SIZE, num_classes=3)
    expected = square()
    expected[:, 4:] = 0
    expected[5, 0] = 1
    assert painted.annotations == [right]
    assert painted.ignored.dtype == np.uint8
    assert np.array_equal(painted.ignored, expected)


def test_a_bad_crowd_is_refused():
    bad = annotation({"size": [8, 6], "counts": [48]}, iscrowd=1, id=5)
    with pytest.raises(InputError, match=r"annotation 5 of image a.jpg .* image has \[6, 8\]"):
        paint([bad], "a.jpg", SIZE)


def test_no_annotation():
    painted = paint([], "a.jpg", SIZE)
    assert painted.masks.shape == (0, *SIZE)
    assert painted.ignored.shape == SIZE
    assert not painted.ignored.any()


def test_a_polygon_is_cut_at_the_border():
    beyond = [[-2, -2, 10, -2, 10, 8, -2, 8]]
    assert paint([annotation(beyond)], "a.jpg", SIZE).masks.all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (annotation([SQUARE], 5), "has category_id 5, but the classes are 0 to 2"),
        (annotation([SQUARE], -1), "has category_id -1, but"),
        (annotation([SQUARE], None), "has the category_id None"),
        (annotation(None), "has the segmentation None, but polygons or run lengths"),
        ({"category_id": 0, "bbox": [0, 0, 1, 1]}, "a box alone is not enough"),
        (annotation({"size": [8, 6], "counts": [48]}), r"size \[8, 6\] .* image has \[6, 8\]"),
        (annotation([SQUARE, [1, 1, 4, 4]]), "a polygon of 4 numbers, but at least three pairs"),
        (annotation([[1, 1, 4, 4, 1, 1, 2]]), "a polygon of 7 numbers, but at least three pairs"),
        (annotation({"size": [6, 8], "counts": [13, 3]}), "they count 16 pixels of 48"),
        (annotation({"size": [6, 8], "counts": "=3"}), "they count 16 pixels of 48"),
        (annotation({"size": [6, 8], "counts": "=33~"}), "no such code, or ends early"),
        (annotation({"size": [6, 8], "counts": [50, -2]}), "no whole numbers"),
        (annotation({"size": 6, "counts": [48]}), "run lengths of size 6"),
        (annotation(SQUARE), "has the polygon 2, but a list of numbers"),
        (annotation([[[1, 1], [4, 4], [1, 4]]]), "but a list of numbers x, y, x, y"),
        (annotation([["a", 1, 4, 4, 1, 1]]), "in which not all are numbers"),
        (annotation([SQUARE], iscrowd="no"), "iscrowd 'no'; it must be 0 or 1"),
        (annotation({"size": [6, 8]}), "run lengths that cannot be read"),
        (annotation({"size": [6, 8], "counts": 3}), "run lengths that cannot be read"),
        (annotation([[0, 0, 1e9, 0, 5, 5]]), "polygon from .*1000000000.0.* image is 8x6"),
        (annotation([[0, 0, float("nan"), 0, 5, 5]]), "polygon from .*nan"),
    ],
)
def test_bad_annotations(bad, message):
    with pytest.raises(InputError, match=message) as caught:
        paint([annotation([SQUARE]), {**bad, "id": 77}], "a.jpg", SIZE, num_classes=3)
    assert "annotation 77 of image a.jpg" in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_compressed_run_lengths_are_counted(seed):
    """Those of any mask have its pixels, and one code less has fewer."""
    random = np.random.RandomState(seed)
    size = tuple(random.randint(1, 60, 2))
    mask = (random.rand(*size) < random.rand()).astype(np.uint8)
    lengths = coco_mask.encode(np.asfortranarray(mask))
    text = lengths["counts"].decode()
    painted = paint([annotation({**lengths, "counts": text})], "a.jpg", size)
    assert np.array_equal(painted.masks.any(0), mask)
    with pytest.raises(InputError, match="run lengths that cannot be read"):
        paint([annotation({**lengths, "counts": text[:-1]})], "a.jpg", size)
