"""Masks by bands against whole ones: product, interpolation, crop, interpolation."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mask_former.functional import banding
from mask_former.functional.lazy_masks import as_lazy, lazy_masks
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


class ConvolutionInputs(TorchDispatchMode):
    """Notes the strides of what convolutions take."""

    def __init__(self):
        super().__init__()
        self.strides = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            self.strides.append(args[0].stride())
        return function(*args, **(kwargs or {}))


class Products(TorchDispatchMode):
    """Counts the pixels whose products with the queries are taken."""

    def __init__(self):
        super().__init__()
        self.pixels = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.mm.default:
            self.pixels += args[1].shape[1]
        return function(*args, **(kwargs or {}))


def test_a_convolution_sees_how_the_maps_lie():
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 4, 5, 6, generator=g)
    convolution = Convolution(torch.randn(3, 4, 3, 3, generator=g), torch.randn(3, generator=g))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = maps.contiguous(memory_format=memory_format)
        with ConvolutionInputs() as seen:
            found = lazy_masks(
                torch.eye(3), given[1], (5, 6), (5, 6), convolution=convolution
            ).convolved()
        expected = F.conv2d(maps[1:], *convolution, padding=1)[0]
        torch.testing.assert_close(found.pixel_embed, expected)
        (strides,) = seen.strides
        assert strides[1:] == given.stride()[1:]
        if memory_format == torch.channels_last:  # else no kernel takes them as such
            assert strides == given.stride()


def test_bands_of_any_height_equal_whole_masks():
    for seed in range(1500):
        case = random_case(seed)
        masks, expected = lazy_masks(*case), whole(*case)
        height = masks.size[0]
        step = (1, 2, 5, height)[seed % 4]
        rows = [masks.rows(a, min(a + step, height)) for a in range(0, height, step)]
        assert tuple(expected.shape) == (masks.number, *masks.size)
        torch.testing.assert_close(torch.cat(rows, dim=1), expected, msg=str(seed))


@pytest.mark.parametrize("elements", [1, 60, 10**6])
def test_bands_one_after_another_equal_whole_masks_and_take_no_product_twice(monkeypatch, elements):
    monkeypatch.setattr(banding, "SMALLEST", elements)
    monkeypatch.setattr(banding, "CACHED", elements)
    for seed in range(300):
        case = random_case(seed)
        masks, expected = lazy_masks(*case), whole(*case)
        height = masks.size[0]
        first, end = sorted((7 * seed % (height + 1), 11 * seed % (height + 1)))
        with Products() as products:
            found = list(masks.in_bands(masks.number, 1, (first, end)))
            rows = [formed.rows(start, stop) for start, stop, formed in found]
        assert [y for start, stop, _ in found for y in range(start, stop)] == [*range(first, end)]
        for (start, stop, _), band in zip(found, rows, strict=True):
            torch.testing.assert_close(band, expected[:, start:stop], msg=str(seed))
        assert not masks.resizes or products.pixels <= case[1][0].numel()


@pytest.mark.parametrize("heights", [(270, 1080, 719), (97, 389, 1021), (160, 640, 427)])
def test_single_rows_of_large_maps_equal_whole_ones(heights):
    """In single precision positions round; a band must not miss a row that interpolate takes."""
    low, padded, output = heights
    g = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 3, generator=g), torch.randn(3, low, 5, generator=g)
    case = (*embeds, (padded, 11), (padded - 3, 10), (output, 8))
    masks = lazy_masks(*case)
    rows = torch.cat([masks.rows(y, y + 1) for y in range(output)], dim=1)
    torch.testing.assert_close(rows, whole(*case), rtol=1e-4, atol=1e-4)


def test_sizes_that_are_equal_need_no_step():
    embeds = torch.randn(2, 3), torch.randn(3, 8, 9)
    assert lazy_masks(*embeds, (8, 9), (8, 9), (8, 9)).resizes == ()
    assert len(lazy_masks(*embeds, (8, 9), (7, 9), (7, 9)).resizes) == 1
    assert len(lazy_masks(*embeds, (32, 36), (30, 36), (30, 36)).resizes) == 1
    assert len(lazy_masks(*embeds, (32, 36), (30, 36), (15, 18)).resizes) == 2


def test_any_memory_layout_serves():
    """Channels last, and cut to the cells of the image."""
    mask_embed, pixel_embed = torch.randn(2, 3), torch.randn(1, 3, 8, 9)
    for pixels in (
        pixel_embed.to(memory_format=torch.channels_last)[0],
        pixel_embed[0, :, :5, :7],
    ):
        size = tuple(4 * side for side in pixels.shape[1:])
        case = (mask_embed, pixels, size, size, (9, 10))
        torch.testing.assert_close(lazy_masks(*case).rows(2, 6), whole(*case)[:, 2:6])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_embeddings_give_single_precision(dtype):
    case = random_case(3, dtype=dtype)
    masks = lazy_masks(*case)
    rows = masks.rows(0, masks.size[0])
    assert rows.dtype == torch.float32
    exact = whole(case[0].double(), case[1].double(), *case[2:])
    torch.testing.assert_close(rows.double(), exact, rtol=0.02, atol=0.05)


def test_selected_masks_are_those_of_the_queries():
    masks = lazy_masks(*random_case(11))
    given = as_lazy(masks.rows(0, masks.size[0]))
    queries = torch.tensor([masks.number - 1, 0, 0])
    expected = given.pixel_embed[queries]
    for some in (masks, given):
        rows = some.select(queries).rows(0, masks.size[0])
        torch.testing.assert_close(rows, expected)


def test_logits_that_are_given_are_not_overwritten():
    logits = torch.ones(2, 3, 4)
    as_lazy(logits).rows(0, 2).zero_()
    assert bool((logits == 1).all())
