"""Mask logits that are formed and resized a band of rows at a time.

Whole, the masks of all queries at output size outweigh any result. But rows of a product of
embeddings, of ``interpolate(mode="bilinear", align_corners=False)`` and of a crop need few rows of
the pixel embeddings, so a result can be formed band by band, from the same numbers.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_former.functional.padding import crop_to_image
from mask_former.structures import Convolution

Size = tuple[int, int]
"""Height and width."""

Rows = Callable[[int, int], Tensor]
"""(start, stop) to these rows of maps, [n, stop - start, width]; the caller may overwrite them."""


class Resize(NamedTuple):
    """Maps are resized, bilinearly, and cut."""

    source: Size
    """Before."""
    whole: Size
    """After resizing."""
    kept: Size
    """The part at the top left that is kept of that."""

    def rows(self, source: Rows, start: int, stop: int) -> Tensor:
        """Rows [n, stop - start, kept width], from the few rows of the source that they need."""
        if self.source[0] == self.whole[0]:
            return self._columns(source(start, stop))
        height, scale = self.source[0], self.source[0] / self.whole[0]
        # The margin is for positions whose last digits interpolate, and so we, round otherwise.
        first = max(int((start + 0.5) * scale - 0.51), 0)
        last = min(int((stop - 0.5) * scale - 0.49) + 2, height)
        maps = self._columns(source(first, last))
        centre = torch.arange(start, stop, dtype=maps.dtype, device=maps.device) + 0.5
        position = (centre * scale - 0.5).clamp(0, height - 1)
        distance = position[:, None] - torch.arange(first, last, device=maps.device)
        weights = (1 - distance.abs()).clamp(min=0)  # [stop - start, last - first]
        return torch.bmm(weights.expand(len(maps), -1, -1), maps)

    def _columns(self, maps: Tensor) -> Tensor:
        if self.source[1] != self.whole[1]:
            maps = _widen(maps, self.whole[1])
        return maps[..., : self.kept[1]]


def _widen(maps: Tensor, width: int) -> Tensor:
    n, height, _ = maps.shape
    if maps.is_cpu:  # twice as fast there as the other, whose kernel suits a GPU better
        wide = F.interpolate(maps.flatten(0, 1)[None], size=width, mode="linear")
        return wide.view(n, height, width)
    return F.interpolate(maps[None], size=(height, width), mode="bilinear")[0]


class LazyMasks(NamedTuple):
    """Mask logits of n queries as they stand in the result."""

    mask_embed: Tensor | None
    """[n, D]; None: pixel_embed holds the logits themselves, [n, h, w]."""
    pixel_embed: Tensor
    """[D, h, w]"""
    resizes: tuple[Resize, ...] = ()
    """One after another."""
    convolution: Convolution | None = None
    """The last step to the embeddings, if it is still to come: pixel_embed is then what it takes,
    [C, h, w]."""

    @property
    def number(self) -> int:
        """How many: n."""
        return len(self.pixel_embed if self.mask_embed is None else self.mask_embed)

    @property
    def size(self) -> Size:
        """Height and width."""
        height, width = self.pixel_embed.shape[-2:]
        return self.resizes[-1].kept if self.resizes else (height, width)

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits: float32, or the embeddings' if that has more digits."""
        return torch.promote_types(self.pixel_embed.dtype, torch.float32)

    def select(self, queries: Tensor) -> "LazyMasks":
        """Only those of some queries."""
        if self.mask_embed is None:
            return self._replace(pixel_embed=self.pixel_embed[queries])
        return self._replace(mask_embed=self.mask_embed[queries]).convolved()

    def convolved(self) -> "LazyMasks":
        """The same without a convolution to come.

        It is linear, and so is the product with the mask embeddings: each query gets a kernel of
        its own and with it its logits, without the embeddings. Less work the fewer the queries.
        """
        if self.convolution is None or self.mask_embed is None:
            return self
        weight, bias = self.convolution
        if self.number > len(weight):
            pixel_embed = _convolve(self.pixel_embed, weight, bias)
            return self._replace(pixel_embed=pixel_embed, convolution=None)
        embed = self.mask_embed.to(weight.dtype)
        kernels = (embed @ weight.flatten(1)).view(-1, *weight.shape[1:])
        logits = _convolve(self.pixel_embed, kernels, embed @ bias)
        return LazyMasks(None, logits, self.resizes)

    def rows(self, start: int, stop: int) -> Tensor:
        """Logits [n, stop - start, width]; the caller may overwrite them."""
        rows: Rows = self._embedded_rows
        for resize in self.resizes:
            rows = partial(resize.rows, rows)
        return rows(start, stop)

    def _embedded_rows(self, start: int, stop: int) -> Tensor:
        pixels = self.pixel_embed[:, start:stop]
        if self.mask_embed is None:
            return pixels.to(self.dtype, copy=True)
        logits = self.mask_embed.to(pixels.dtype) @ pixels.flatten(1)
        return logits.view(len(logits), *pixels.shape[1:]).to(self.dtype)


def _convolve(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[C, h, w] to [D, h, w], in the type of the maps."""
    weight, bias = weight.to(maps.dtype), bias.to(maps.dtype)
    # The same as maps[None], but of maps that lie channels last that would not tell so, and the
    # convolution would copy them.
    batch = maps.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.conv2d(batch, weight, bias, padding=weight.shape[-1] // 2)[0].contiguous()


def lazy_masks(
    mask_embed: Tensor,
    pixel_embed: Tensor,
    padded: Size,
    size: Size,
    output: Size | None = None,
    *,
    valid_only: bool = False,
    convolution: Convolution | None = None,
) -> LazyMasks:
    """Masks that are resized to the input, cut to the image, and resized to the output.

    Args:
        mask_embed: [Q, D]
        pixel_embed: [D, h, w], or with a convolution [C, h, w].
        padded: what pixel_embed covers, in pixels of the input.
        size: of the image in it, at the top left.
        output: of the result; None: that of the image.
        valid_only: first cut off the cells that are padding alone.
        convolution: to the embeddings, if it is still to come; it sees those cells.
    """
    height, width = pixel_embed.shape[-2:]
    cells, covered = (height, width), padded
    if valid_only:
        maps, covered = crop_to_image(pixel_embed, size, padded)
        cells = (maps.shape[-2], maps.shape[-1])
    steps = [
        Resize((height, width), (height, width), cells),
        Resize(cells, covered, size),
        Resize(size, output or size, output or size),
    ]
    needed = tuple(step for step in steps if len(set(step)) > 1)
    return LazyMasks(mask_embed, pixel_embed, needed, convolution)


def as_lazy(mask_logits: Tensor | LazyMasks) -> LazyMasks:
    """Mask logits [n, h, w] that are there already, as they are."""
    if isinstance(mask_logits, Tensor):
        return LazyMasks(None, mask_logits)
    return mask_logits


def leading(chosen: Tensor, room: int) -> Tensor:
    """Indices of the True entries [Q], in order, and at least one index.

    Exactly those where reading their number is free, else as many as there is room for: other
    entries follow the True ones.
    """
    if reading_is_free(chosen.device):
        room = max(int(chosen.sum()), 1)
    return (~chosen).byte().argsort(stable=True)[:room]


def reading_is_free(device: torch.device) -> bool:
    """Whether to read a number from the device costs nothing; elsewhere it waits for all work."""
    return device.type == "cpu"


CACHED = 2**21
"""Elements of a band on a CPU, so that it stays in the cache."""
SMALLEST = 2**15
"""Below, what takes the time is calling operators; a band of 128 KiB hurts nobody."""
LAUNCHED = 2**24
"""Elements of a band on an accelerator, so that launching kernels is not what takes the time."""


def bands(
    size: Size, channels: int, result_channels: int, device: torch.device
) -> Iterator[tuple[int, int]]:
    """(start, stop) of bands of rows that are to be formed one after another.

    Args:
        size: of the result.
        channels: of the maps that a band goes through.
        result_channels: of the result; on a CPU a band has up to a tenth of its elements, or more
            if that is few.
        device: of the maps.
    """
    height, width = size
    elements = LAUNCHED
    if device.type == "cpu":
        elements = min(CACHED, max(SMALLEST, result_channels * height * width // 10))
    rows = max(elements // max(channels * width, 1), 1)
    for start in range(0, height, rows):
        yield start, min(start + rows, height)
