"""Targets against loops over pixels, and the laws that they obey."""

import pytest
import torch

from mask_former.functional.targets import (
    instance_target,
    pad_target,
    panoptic_target,
    resize_masks,
    semantic_target,
)
from mask_former.structures import MaskTarget


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_semantic_target_by_hand(dtype: torch.dtype):
    sem_seg = torch.tensor([[7, 2, 255], [2, 255, 0]], dtype=dtype)

    target = semantic_target(sem_seg, ignore_label=255)

    assert target.labels.tolist() == [0, 2, 7]
    assert target.labels.dtype == torch.int64
    assert target.masks.dtype == torch.bool
    assert target.masks.int().tolist() == [
        [[0, 0, 0], [0, 0, 1]],
        [[0, 1, 0], [1, 0, 0]],
        [[1, 0, 0], [0, 0, 0]],
    ]


def test_semantic_masks_partition_the_labelled_pixels():
    sem_seg = torch.randint(0, 6, (9, 13), generator=torch.Generator().manual_seed(0))

    target = semantic_target(sem_seg, ignore_label=3)

    assert torch.equal(target.masks.sum(0), (sem_seg != 3).long())
    for label, mask in zip(target.labels, target.masks, strict=True):
        assert sem_seg[mask].unique().tolist() == [label.item()]


def test_semantic_target_of_an_ignored_image_is_empty():
    target = semantic_target(torch.full((4, 5), 255), ignore_label=255)

    assert target.labels.shape == (0,)
    assert target.labels.dtype == torch.int64
    assert target.masks.shape == (0, 4, 5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_panoptic_target_keeps_order_and_segments_without_pixels(dtype: torch.dtype):
    numbers = torch.tensor([[1, 1, 0], [3, 3, 4]], dtype=dtype)

    target = panoptic_target(numbers, torch.tensor([5, 1, 5]))

    assert target.labels.tolist() == [5, 1, 5]
    assert target.masks.int().tolist() == [
        [[1, 1, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [1, 1, 0]],
    ]


def test_panoptic_target_without_segments_is_empty():
    target = panoptic_target(torch.zeros(4, 5, dtype=torch.uint8), torch.zeros(0))

    assert target.masks.shape == (0, 4, 5)
    assert target.labels.dtype == torch.int64


@pytest.mark.parametrize("size", [(2, 3), (5, 7), (9, 8), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_resize_takes_the_pixel_below_the_scaled_index(size: tuple[int, int], dtype: torch.dtype):
    masks = (torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1)) > 0.5).to(dtype)

    resized = resize_masks(masks, size)

    assert resized.dtype == dtype
    assert resized.shape == (3, *size)
    for y in range(size[0]):
        for x in range(size[1]):
            source = masks[:, y * 5 // size[0], x * 7 // size[1]]
            assert torch.equal(resized[:, y, x], source)


def test_resize_of_no_masks():
    assert resize_masks(torch.zeros(0, 5, 7, dtype=torch.bool), (2, 3)).shape == (0, 2, 3)


def test_padding_is_bottom_right_and_in_no_mask():
    target = MaskTarget(torch.tensor([1]), torch.ones(1, 2, 3, dtype=torch.bool))

    padded = pad_target(target, (4, 5))

    assert padded.labels is target.labels
    assert padded.masks.dtype == torch.bool
    assert padded.masks[0].int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_padding_is_not_valid():
    valid = torch.tensor([[True, False], [True, True]])
    target = MaskTarget(torch.tensor([5]), torch.ones(1, 2, 2).bool(), valid, (2, 1))

    padded = pad_target(target, (3, 4))

    assert padded.valid.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert padded.size == (2, 1)
    assert pad_target(target._replace(valid=None), (3, 4)).valid is None
    with pytest.raises(ValueError, match=r"valid pixels is \[1, 2\], but the masks are 2x2"):
        pad_target(target._replace(valid=valid[:1]), (3, 4))


def test_padding_of_an_empty_target():
    target = semantic_target(torch.full((2, 3), 255), ignore_label=255)

    assert pad_target(target, (4, 5)).masks.shape == (0, 4, 5)


@pytest.mark.parametrize("size", [(1, 5), (4, 2)])
def test_padding_to_less_than_the_masks_is_refused(size: tuple[int, int]):
    target = MaskTarget(torch.tensor([1]), torch.ones(1, 2, 3, dtype=torch.bool))

    with pytest.raises(ValueError, match="2x3 pixels to"):
        pad_target(target, size)


def test_instances_without_a_pixel_are_no_targets():
    masks = torch.tensor([[[1, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [0, 0]]]).bool()

    target = instance_target(masks, torch.tensor([4, 5, 4]))

    assert target.labels.tolist() == [4, 4]
    assert torch.equal(target.masks, masks[[0, 2]])
    assert instance_target(masks[:0], torch.zeros(0)).masks.shape == (0, 2, 2)
