"""Windows and the mask of their shift, against loops over cells and values by hand."""

import warnings

import pytest
import torch

from mask_former.modeling.window_attention import (
    _attention,
    join_windows,
    relative_position_index,
    shift_mask,
    split_windows,
)

CPU = torch.device("cpu")


def test_relative_position_index_of_the_specification():
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_position_index(2).tolist() == expected


@pytest.mark.parametrize("size", [(4, 8), (7, 5), (3, 3)])
@pytest.mark.parametrize("window", [3, 4])
def test_shift_mask_by_regions(size, window):
    sides = [-(-length // window) * window for length in size]
    region = torch.zeros(*sides)
    slices = (slice(0, -window), slice(-window, -(window // 2)), slice(-(window // 2), None))
    for number, (rows, columns) in enumerate((r, c) for r in slices for c in slices):
        region[rows, columns] = number
    windows = []
    for top in range(0, sides[0], window):
        for left in range(0, sides[1], window):
            cells = region[top : top + window, left : left + window].flatten().tolist()
            windows.append([[a != b for b in cells] for a in cells])
    assert shift_mask(*size, window, CPU).tolist() == windows


def test_windows_split_and_join():
    x = torch.arange(2 * 6 * 4 * 3.0).view(2, 6, 4, 3)
    windows = split_windows(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    assert torch.equal(windows[1, 3].view(2, 2, 3), x[1, 2:4, 2:4])  # row-major
    assert torch.equal(join_windows(windows, 2, (6, 4)), x)


def test_the_compiler_says_nothing_of_masks():
    compiled = torch.compile(lambda: shift_mask(7, 5, 4, CPU), backend="eager", fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compiled()
    assert torch.equal(found, shift_mask(7, 5, 4, CPU))


@pytest.mark.parametrize("most", [1, 5, 12])
def test_more_windows_or_heads_than_a_grid_takes_change_nothing(most):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 12, 6, 4, 2, dtype=torch.float64)
    bias = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    whole = _attention(query, key, value, bias.expand(len(query), -1, -1, -1), 0.0, 0.3, None)
    torch.testing.assert_close(
        _attention(query, key, value, bias.expand(len(query), -1, -1, -1), 0.0, 0.3, most), whole
    )
