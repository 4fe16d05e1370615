"""The core of all mappers: two ways of resampling, and padding that cuts."""

import random

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from PIL import Image

from mask_former.d2.data.augmentation import (
    ColorJitter,
    Picture,
    ResizeShortestEdge,
    augment,
    pad_to,
)
from mask_former.d2.data.reading import id_to_rgb, rgb_to_id


def below_scaled_index(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbour as PyTorch samples it."""
    h, w = labels.shape
    rows = [y * h // height for y in range(height)]
    return np.array([[labels[row, x * w // width] for x in range(width)] for row in rows])


def at_scaled_centre(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbour as Pillow samples it."""
    h, w = labels.shape
    rows = [int((y + 0.5) * h / height) for y in range(height)]
    return np.array(
        [[labels[row, int((x + 0.5) * w / width)] for x in range(width)] for row in rows]
    )


def test_semantic_and_panoptic_labels_are_sampled_differently(image):
    ids = np.random.RandomState(3).randint(0, 250, (30, 40)).astype(np.uint8)

    picture = augment(Picture(image, ids, ids), [T.Resize((16, 32))])

    below, centre = below_scaled_index(ids, 16, 32), at_scaled_centre(ids, 16, 32)
    assert np.array_equal(picture.sem_seg, below)
    assert np.array_equal(picture.segments, centre)
    assert not np.array_equal(below, centre)
    resized = Image.fromarray(image).resize((32, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(picture.image.transpose(1, 2, 0), np.asarray(resized))


def by_detectron2(
    ids: np.ndarray, numbers: np.ndarray, transforms: T.TransformList
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as published: class ids as floats, segments as colours, whole at each step."""
    colors = transforms.apply_segmentation(id_to_rgb(numbers))
    return transforms.apply_segmentation(ids.astype(np.float64)), rgb_to_id(colors)


@pytest.mark.parametrize("largest", [40, 1200])
def test_picking_pixels_once_is_what_detectron2_does_step_by_step(largest: int):
    """Over sizes on both sides of PyTorch's change of rule; 838 x 99 from 212 x 803 has a tie."""
    draw = np.random.RandomState(0)
    sizes = [(212, 803, 838, 99), *draw.randint(3, largest, (5 if largest > 40 else 300, 4))]
    for h, w, new_h, new_w in sizes:
        ids, numbers = (draw.randint(0, 2**16, (h, w), dtype=np.int32) for _ in range(2))
        steps = [
            T.ResizeTransform(h, w, new_h, new_w),
            T.HFlipTransform(new_w),
            T.CropTransform(new_w // 3, new_h // 3, new_w - new_w // 3, new_h - new_h // 3),
            T.VFlipTransform(new_h - new_h // 3),
        ]
        picture = Picture(np.zeros((h, w, 3), np.uint8), ids, numbers, numbers[None])

        found = augment(picture, steps)

        expected_ids, expected_numbers = by_detectron2(ids, numbers, T.TransformList(steps))
        assert np.array_equal(found.sem_seg, expected_ids)
        assert np.array_equal(found.segments, expected_numbers)
        assert np.array_equal(found.masks[0], expected_numbers)


def test_a_transform_that_mixes_rows_and_columns_goes_the_plain_way(image):
    ids = np.random.RandomState(3).randint(0, 250, (30, 40)).astype(np.uint8)
    numbers = ids.astype(np.int16) * 7
    turn = T.RotationTransform(30, 40, 30)
    steps = [T.ResizeTransform(30, 40, 20, 40), T.RotationTransform(20, 40, 30)]
    masks = np.stack([ids, ids + 1])

    for transforms in ([turn], steps):
        found = augment(Picture(image, ids, numbers, masks, ids), transforms)
        expected_ids, expected = by_detectron2(ids, numbers, T.TransformList(transforms))
        assert np.array_equal(found.sem_seg, expected_ids)
        assert np.array_equal(found.segments, expected)
        assert found.masks.shape == (2, *found.ignored.shape)
        assert np.array_equal(found.masks[0], found.ignored)
        none = augment(Picture(image, masks=masks[:0]), transforms)
        assert none.masks.shape == found.masks[:0].shape


class CropAtLabel(T.Augmentation):
    """A user's own, which looks at the labels."""

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> T.Transform:
        y, x = np.argwhere(sem_seg == 7)[0]
        return T.CropTransform(int(x), int(y), 2, 2)


@pytest.mark.parametrize("wrap", [list, lambda crops: [T.RandomApply(crops[0], prob=1.0)]])
def test_an_augmentation_may_look_at_the_labels(image, wrap):
    ids = np.zeros((30, 40), np.uint8)
    ids[11, 5] = 7

    found = augment(Picture(image, ids), wrap([CropAtLabel()]))

    assert found.sem_seg.tolist() == [[7, 0], [0, 0]]
    assert found.sem_seg.dtype == np.uint8


def test_flip_and_crop_move_image_and_labels_alike(image):
    labels = image[:, :, 0]
    picture = Picture(image, labels, labels, image.transpose(2, 0, 1), labels)

    found = augment(picture, [T.CropTransform(3, 4, 20, 10), T.RandomFlip(prob=1.0)])

    expected = image[4:14, 3:23][:, ::-1]
    assert np.array_equal(found.image.transpose(1, 2, 0), expected)
    assert np.array_equal(found.masks.transpose(1, 2, 0), expected)
    for labels in (found.sem_seg, found.segments, found.ignored):
        assert np.array_equal(labels, expected[:, :, 0])
        assert labels.dtype == np.uint8


def test_augmentation_without_labels(image):
    assert augment(Picture(image), [])[1:] == (None, None, None, None)


def test_colours_are_jittered_as_by_point_rend(image):
    for seed in range(20):
        random.seed(seed)
        expected = ColorAugSSDTransform("RGB").apply_image(image)
        random.seed(seed)
        assert np.array_equal(ColorJitter("RGB").apply_image(image), expected)


def test_a_narrow_image_keeps_a_pixel():
    narrow = np.zeros((1, 3000, 3), np.uint8)

    found = augment(Picture(narrow, narrow[..., 0]), [ResizeShortestEdge([400], 1333, "choice")])

    assert found.image.shape == (3, 1, 1333)
    assert found.sem_seg.shape == (1, 1333)
    assert augment(Picture(narrow), [ResizeShortestEdge([0], 1333, "choice")]).image.shape == (
        3,
        1,
        3000,
    )


def test_padding_has_a_value_of_its_own_for_each_map():
    ids = np.ones((2, 3), np.int32)

    padded = pad_to(Picture(np.ones((3, 2, 3), np.uint8), ids, ids, ids[None], ids), 4, 255)

    assert padded.image.dtype == np.uint8
    assert padded.image[0].tolist() == [[1, 1, 1, 128]] * 2 + [[128] * 4] * 2
    assert padded.sem_seg.tolist() == [[1, 1, 1, 255]] * 2 + [[255] * 4] * 2
    assert padded.segments.tolist() == [[1, 1, 1, 0]] * 2 + [[0] * 4] * 2
    assert padded.masks.tolist() == [padded.segments.tolist()]
    assert (padded.ignored == 1).all()


def test_padding_cuts_what_is_larger():
    ids = np.arange(12).reshape(2, 6)

    padded = pad_to(Picture(ids[None].repeat(3, 0), ids), 4, 255)

    assert padded.sem_seg.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9], [255] * 4, [255] * 4]
    assert padded.image.shape == (3, 4, 4)
    assert padded.segments is None
