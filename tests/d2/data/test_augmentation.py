"""The core of all mappers: two ways of resampling, padding that cuts, targets as instances."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from mask_former.d2.data.augmentation import (
    Arrays,
    Tensors,
    augment,
    pad_to,
    segments_target,
    to_instances,
)
from mask_former.d2.data.reading import rgb_to_id
from mask_former.functional.targets import semantic_target


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
    ids = np.random.RandomState(3).randint(0, 250, (30, 40))
    colors = np.stack([ids, ids * 0, ids * 0], axis=-1).astype(np.uint8)
    arrays = Arrays(image, ids.astype(np.float64), colors)

    tensors = augment(arrays, [T.Resize((16, 32))])

    below, centre = below_scaled_index(ids, 16, 32), at_scaled_centre(ids, 16, 32)
    assert np.array_equal(tensors.sem_seg.numpy(), below)
    assert np.array_equal(tensors.panoptic.numpy(), centre)
    assert not np.array_equal(below, centre)
    resized = Image.fromarray(image).resize((32, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(tensors.image.permute(1, 2, 0).numpy(), np.asarray(resized))


def test_flip_and_crop_move_image_and_labels_alike(image):
    labels = image[:, :, 0].astype(np.float64)
    arrays = Arrays(image, labels, image)

    tensors = augment(arrays, [T.CropTransform(3, 4, 20, 10), T.RandomFlip(prob=1.0)])

    expected = image[4:14, 3:23][:, ::-1]
    assert np.array_equal(tensors.image.permute(1, 2, 0).numpy(), expected)
    assert np.array_equal(tensors.sem_seg.numpy(), expected[:, :, 0])
    assert np.array_equal(tensors.panoptic.numpy(), rgb_to_id(expected))
    assert tensors.image.dtype == torch.uint8
    assert tensors.sem_seg.dtype == tensors.panoptic.dtype == torch.int64


def test_augmentation_without_labels(image):
    tensors = augment(Arrays(image), [])

    assert tensors.sem_seg is None
    assert tensors.panoptic is None


def test_padding_has_a_value_of_its_own_for_each_map():
    ids = torch.ones(2, 3, dtype=torch.int64)

    padded = pad_to(Tensors(torch.ones(3, 2, 3, dtype=torch.uint8), ids, ids), 4, 255)

    assert padded.image.dtype == torch.uint8
    assert padded.image[0].tolist() == [[1, 1, 1, 128]] * 2 + [[128] * 4] * 2
    assert padded.sem_seg.tolist() == [[1, 1, 1, 255]] * 2 + [[255] * 4] * 2
    assert padded.panoptic.tolist() == [[1, 1, 1, 0]] * 2 + [[0] * 4] * 2
    assert padded.ignored is None


def test_padding_is_ignored_and_in_no_mask():
    mask = torch.tensor([[True, False]])

    padded = pad_to(Tensors(torch.ones(3, 1, 2), masks=mask[None], ignored=mask), 3, 255)

    assert padded.masks.int().tolist() == [[[1, 0, 0], [0, 0, 0], [0, 0, 0]]]
    assert padded.ignored.int().tolist() == [[1, 0, 1], [1, 1, 1], [1, 1, 1]]


def test_padding_cuts_what_is_larger():
    ids = torch.arange(12).reshape(2, 6)

    padded = pad_to(Tensors(ids.repeat(3, 1, 1), ids), 4, 255)

    assert padded.sem_seg.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9], [255] * 4, [255] * 4]
    assert padded.image.shape == (3, 4, 4)
    assert padded.panoptic is None


def test_crowds_are_no_targets_and_lost_segments_are(segments):
    segments[1]["iscrowd"] = 1
    lost = {"id": 5, "category_id": 1, "iscrowd": 0}

    target = segments_target(torch.tensor([[1, 258, 0]]), [lost, *segments])

    assert target.labels.tolist() == [1, 2]
    assert target.masks.int().tolist() == [[[0, 0, 0]], [[0, 1, 0]]]
    assert target.valid.int().tolist() == [[0, 1, 0]]


def test_instances_hold_bare_masks():
    instances = to_instances(semantic_target(torch.tensor([[4, 255], [1, 4]]), 255))

    assert instances.image_size == (2, 2)
    assert instances.gt_classes.tolist() == [1, 4]
    assert instances.gt_masks.dtype == torch.bool
    assert instances.gt_masks.int().tolist() == [[[0, 0], [1, 0]], [[1, 0], [0, 1]]]


@pytest.mark.parametrize("segments_info", [[], [{"id": 1, "category_id": 0, "iscrowd": 1}]])
def test_no_segments_are_float_masks(segments_info):
    target = segments_target(torch.ones(2, 3, dtype=torch.int64), segments_info)
    instances = to_instances(target)

    assert not target.valid.any()
    assert instances.gt_classes.shape == (0,)
    assert instances.gt_classes.dtype == torch.int64
    assert instances.gt_masks.shape == (0, 2, 3)
    assert instances.gt_masks.dtype == torch.float32
