"""Which cells hold image, against fractions and loops."""

from fractions import Fraction
from itertools import product

import pytest
import torch

from mask_former.functional.padding import crop_to_image, image_cells, padding_mask
from mask_former.structures import Padding


def slow_cells(pixels: int, whole: int, cells: int) -> int:
    """Cells, each ``whole / cells`` pixels long, that begin before the image ends."""
    return sum(Fraction(cell * whole, cells) < pixels for cell in range(cells))


@pytest.mark.parametrize(("whole", "cells"), [(32, 8), (32, 1), (30, 8), (13, 7), (5, 5), (7, 9)])
def test_cells_that_hold_a_pixel(whole, cells):
    for height, width in product(range(1, whole + 1), repeat=2):
        expected = slow_cells(height, whole, cells), slow_cells(width, whole, cells)
        assert image_cells((height, width), (whole, whole), (cells, cells)) == expected


def test_rows_and_columns_are_told_apart():
    assert image_cells((1, 64), (32, 64), (4, 16)) == (1, 16)
    assert image_cells((17, 5), (32, 64), (4, 16)) == (3, 2)


@pytest.mark.parametrize("grid", [(8, 12), (7, 11), (2, 3)])
def test_crop_covers_the_image_and_less_than_a_cell_more(grid):
    padded, maps = (32, 48), torch.randn(2, 5, *grid)
    for size in product(range(1, 33, 3), range(1, 49, 5)):
        crop, covered = crop_to_image(maps, size, padded)
        rows, columns = image_cells(size, padded, grid)
        assert torch.equal(crop, maps[:, :, :rows, :columns])
        assert crop.data_ptr() == maps.data_ptr()
        for side in range(2):
            assert size[side] <= covered[side] < size[side] + padded[side] / grid[side]


def test_crop_of_what_is_not_padded_is_everything():
    maps = torch.randn(3, 7, 11)
    crop, covered = crop_to_image(maps, (30, 41), (30, 41))
    assert torch.equal(crop, maps)
    assert covered == (30, 41)


def test_mask_of_padding():
    sizes = [(32, 48), (1, 48), (20, 17), (5, 1)]
    found = padding_mask(Padding(sizes, (32, 48)), (4, 6), torch.device("cpu"))
    assert found.dtype == torch.bool
    expected = [
        [[8 * row >= height or 8 * column >= width for column in range(6)] for row in range(4)]
        for height, width in sizes
    ]
    assert found.tolist() == expected
