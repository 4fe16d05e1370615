"""Masks by bands against whole ones: product, interpolation, crop, interpolation."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.functional import lazy_masks as lazy
from mask_former.functional.lazy_masks import as_lazy, bands, lazy_masks, project_queries
from mask_former.structures import Convolution


def integer(g, low, high):
    return int(torch.randint(low, high + 1, (), generator=g))


def random_case(seed, dtype=torch.float64):
    """Embeddings and geometry, odd sizes among them; output equal, larger, smaller, or none."""
    g = torch.Generator().manual_seed(seed)
    h, w, stride = integer(g, 1, 7), integer(g, 1, 7), integer(g, 1, 4)
    padded = (h * stride, w * stride) if seed % 3 else (integer(g, h, 20), integer(g, w, 20))
    size = (integer(g, 1, padded[0]), integer(g, 1, padded[1])) if seed % 5 else padded
    output = (integer(g, 1, 25), integer(g, 1, 25)) if seed % 4 else (None, size)[seed % 8 // 4]
    mask_embed = torch.randn(integer(g, 1, 5), 3, generator=g, dtype=dtype)
    return mask_embed, torch.randn(3, h, w, generator=g, dtype=dtype), padded, size, output


def whole(mask_embed, pixel_embed, padded, size, output):
    """The plain chain, of all masks."""

    def resize(maps, size):
        return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]

    logits = resize(torch.einsum("qd,dhw->qhw", mask_embed, pixel_embed), padded)
    logits = logits[:, : size[0], : size[1]]
    return logits if output is None else resize(logits, output)


@pytest.mark.parametrize("queries", [2, 9])  # fewer than the channels of the embedding, and more
@pytest.mark.parametrize("side", [1, 3])
def test_a_projection_to_come_is_part_of_the_product(queries, side):
    g = torch.Generator().manual_seed(queries)
    maps = torch.randn(1, 6, 5, 7, generator=g, dtype=torch.float64)
    projection = Convolution(
        torch.randn(4, 6, side, side, generator=g, dtype=torch.float64),
        torch.randn(4, generator=g, dtype=torch.float64),
    )
    mask_embed = torch.randn(queries, 4, generator=g, dtype=torch.float64)
    embeds = F.conv2d(maps, *projection, padding=side // 2)
    expected = torch.einsum("qd,dhw->qhw", mask_embed, embeds[0])
    torch.testing.assert_close(project_queries(mask_embed, projection)(maps)[0], expected)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = maps.contiguous(memory_format=layout)[0]
        masks = lazy_masks(mask_embed, given, (5, 7), (5, 7), projection=projection)
        torch.testing.assert_close(masks.formed().rows(0, 5), expected)
        none = masks.select(torch.tensor([], dtype=torch.int64))
        assert none.formed().rows(0, 5).shape == (0, 5, 7)


def test_bands_cover_every_row_once():
    cpu = torch.device("cpu")
    assert list(bands((7, 2**18), 2, cpu)) == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert list(bands((3, 2**21), 1, cpu)) == [(0, 1), (1, 2), (2, 3)]
    assert list(bands((7, 2**18), 2, torch.device("meta"))) == [(0, 7)]
    assert list(bands((0, 5), 1, cpu)) == []


def test_bands_of_any_height_equal_whole_masks():
    for seed in range(1500):
        case = random_case(seed)
        masks, expected = lazy_masks(*case).formed(), whole(*case)
        height = masks.size[0]
        step = (1, 2, 5, height)[seed % 4]
        rows = [masks.rows(a, min(a + step, height)) for a in range(0, height, step)]
        assert tuple(expected.shape) == (masks.number, *masks.size)
        torch.testing.assert_close(torch.cat(rows, dim=1), expected, msg=str(seed))


@pytest.mark.parametrize("elements", [1, 60, 10**6])
def test_bands_one_after_another_equal_whole_masks(monkeypatch, elements):
    monkeypatch.setattr(lazy, "CACHED", elements)
    for seed in range(300):
        case = random_case(seed)
        expected = whole(*case)
        found = list(lazy_masks(*case).in_bands(2))
        assert [y for rows, _ in found for y in range(rows.start, rows.stop)] == [
            *range(expected.shape[1])
        ]
        for rows, band in found:
            torch.testing.assert_close(band, expected[:, rows], msg=str(seed))


def test_few_rows_need_few_rows():
    resizes = lazy_masks(torch.ones(1, 1), torch.ones(1, 100, 8), (400, 32), (400, 32)).resizes
    assert resizes.source_rows(0, 400) == (0, 100)
    assert all(b - a <= 4 for a, b in (resizes.source_rows(y, y + 4) for y in range(397)))


@pytest.mark.parametrize("heights", [(270, 1080, 719), (97, 389, 1021), (160, 640, 427)])
def test_single_rows_of_large_maps_equal_whole_ones(heights):
    """In single precision positions round; a band must not miss a row that interpolate takes."""
    low, padded, output = heights
    g = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 3, generator=g), torch.randn(3, low, 5, generator=g)
    case = (*embeds, (padded, 11), (padded - 3, 10), (output, 8))
    masks = lazy_masks(*case).formed()
    rows = torch.cat([masks.rows(y, y + 1) for y in range(output)], dim=1)
    torch.testing.assert_close(rows, whole(*case), rtol=1e-4, atol=1e-4)


def test_sizes_that_are_equal_need_no_step():
    embeds = torch.randn(2, 3), torch.randn(3, 8, 9)
    assert lazy_masks(*embeds, (8, 9), (8, 9), (8, 9)).resizes.steps == ()
    assert len(lazy_masks(*embeds, (8, 9), (7, 9), (7, 9)).resizes.steps) == 1
    assert len(lazy_masks(*embeds, (32, 36), (30, 36), (30, 36)).resizes.steps) == 1
    assert len(lazy_masks(*embeds, (32, 36), (30, 36), (15, 18)).resizes.steps) == 2


def test_any_memory_layout_serves():
    """Channels last, and cut to the cells of the image."""
    mask_embed, pixel_embed = torch.randn(2, 3), torch.randn(1, 3, 8, 9)
    for pixels in (
        pixel_embed.to(memory_format=torch.channels_last)[0],
        pixel_embed[0, :, :5, :7],
    ):
        size = tuple(4 * side for side in pixels.shape[1:])
        case = (mask_embed, pixels, size, size, (9, 10))
        torch.testing.assert_close(lazy_masks(*case).formed().rows(2, 6), whole(*case)[:, 2:6])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_embeddings_give_single_precision(dtype):
    case = random_case(3, dtype=dtype)
    masks = lazy_masks(*case).formed()
    rows = masks.rows(0, masks.size[0])
    assert rows.dtype == torch.float32
    exact = whole(case[0].double(), case[1].double(), *case[2:])
    torch.testing.assert_close(rows.double(), exact, rtol=0.02, atol=0.05)


def test_selected_masks_are_those_of_the_queries():
    masks = lazy_masks(*random_case(11))
    given = as_lazy(masks.formed().rows(0, masks.size[0]))
    queries = torch.tensor([masks.number - 1, 0, 0])
    expected = given.pixel_features[queries]
    for some in (masks, masks.formed(), given):
        rows = some.select(queries).formed().rows(0, masks.size[0])
        torch.testing.assert_close(rows, expected)
