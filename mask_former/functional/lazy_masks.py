"""Mask logits that are formed and resized a band of rows at a time.

Whole, the masks of all queries at output size outweigh any result. But rows of a product of
embeddings, of a resize and of a crop need few rows of the pixel embeddings, so a result can be
formed band by band, from the same numbers.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..structures import Convolution
from .banding import bands
from .padding import crop_to_image
from .resampling import Resize, Rows, Size


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
    first_row: int = 0
    """Of the map, where pixel_embed is but a part of it."""

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

    def in_bands(
        self, channels: int, result_channels: int, rows: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, int, "LazyMasks"]]:
        """(start, stop) of :func:`bands`, with masks whose ``rows`` are at hand for these.

        Neighbouring bands need some of the same logits before resizing, which are formed once.
        """
        formed = None
        device = self.pixel_embed.device
        for start, stop in bands(self.size, channels, result_channels, device, rows):
            formed = self._formed(start, stop, formed)
            yield start, stop, formed

    def _formed(self, start: int, stop: int, before: "LazyMasks | None") -> "LazyMasks":
        """Logits as far as some rows need them, not yet resized.

        ``before`` is what rows above needed, if anything.
        """
        if self.mask_embed is None or not self.resizes:
            return self
        for resize in reversed(self.resizes):
            start, stop = resize.needed(start, stop)
        if before is None:
            logits = self._embedded_rows(start, stop)
        else:
            kept = before.pixel_embed[:, start - before.first_row :]
            logits = torch.cat([kept, self._embedded_rows(start + kept.shape[1], stop)], dim=1)
        return LazyMasks(None, logits, self.resizes, first_row=start)

    def _embedded_rows(self, start: int, stop: int) -> Tensor:
        pixels = self.pixel_embed[:, start - self.first_row : stop - self.first_row]
        if self.mask_embed is None:
            resized = any(resize.source != resize.whole for resize in self.resizes)
            return pixels.to(self.dtype, copy=not resized)
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
