"""Resizing a few rows at a time against whole maps that PyTorch resizes."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.functional.resampling import Resize


def whole(maps, resize):
    wide = F.interpolate(maps[None], size=resize.whole, mode="bilinear", align_corners=False)[0]
    return wide[:, : resize.kept[0], : resize.kept[1]]


def source_of(maps, asked):
    """Rows of the maps, as copies; notes which are asked for."""

    def rows(start, stop):
        asked.append((start, stop))
        return maps[:, start:stop].clone()

    return rows


@pytest.mark.parametrize(
    "resize",
    [
        Resize((5, 7), (20, 28), (18, 25)),  # by a whole factor, and cut
        Resize((5, 7), (13, 9), (13, 9)),
        Resize((20, 9), (6, 30), (5, 30)),  # fewer rows, more columns
        Resize((1, 1), (4, 3), (4, 3)),
        Resize((6, 4), (6, 11), (6, 10)),  # columns alone
        Resize((6, 4), (6, 4), (3, 2)),  # cut alone
    ],
)
@pytest.mark.parametrize("step", [1, 2, 100])
def test_rows_are_those_of_whole_maps(resize, step):
    maps = torch.randn(3, *resize.source, dtype=torch.float64)
    asked, height = [], resize.kept[0]
    bands = [(start, min(start + step, height)) for start in range(0, height, step)]
    rows = [resize.rows(source_of(maps, asked), *band) for band in bands]
    torch.testing.assert_close(torch.cat(rows, dim=1), whole(maps, resize))
    assert asked == [resize.needed(*band) for band in bands]


def test_few_rows_need_few_rows():
    resize = Resize((100, 8), (400, 32), (400, 32))
    assert resize.needed(0, 400) == (0, 100)
    assert all(stop - start <= 4 for start, stop in (resize.needed(y, y + 4) for y in range(397)))


def test_modes_of_gradients_do_not_mix():
    """What inference mode has kept serves a map that needs gradients."""
    resize = Resize((3, 3), (7, 5), (7, 5))
    with torch.inference_mode():
        resize.rows(source_of(torch.ones(1, 3, 3), []), 0, 7)
    maps = torch.ones(1, 3, 3, requires_grad=True)
    resize.rows(source_of(maps, []), 0, 7).sum().backward()
    assert float(maps.grad.sum()) == pytest.approx(7 * 5)
