"""Mask logits at the size of the result, formed a band of rows at a time.

Whole, the masks of all queries at output size outweigh any result. Bilinear resizing is linear in
rows and in columns, so a band of rows of the result needs few rows of the mask logits at the size
of the embeddings, and comes out with the same numbers, but for float noise.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..structures import Convolution
from .padding import crop_to_image

Size = tuple[int, int]
"""Height and width."""

CACHED = 2**20
"""Elements of a band on a CPU, so that it stays in the cache."""
LAUNCHED = 2**24
"""Elements of a band on an accelerator, so that launching kernels is not what takes the time."""


class Resize(NamedTuple):
    """Bilinear resizing with ``align_corners=False``, followed by a cut at the bottom right."""

    source: Size
    """Before resizing."""
    whole: Size
    """After resizing."""
    kept: Size
    """The part at the top left that is kept."""

    def source_rows(self, start: int, stop: int) -> tuple[int, int]:
        """First and last + 1 of the source rows that the rows from start to stop need."""
        if self.source[0] == self.whole[0]:
            return start, stop
        scale = self.source[0] / self.whole[0]
        # The margin is for positions whose last digits interpolate rounds otherwise.
        first = max(int((start + 0.5) * scale - 0.51), 0)
        return first, min(int((stop - 0.5) * scale - 0.49) + 2, self.source[0])


class Resizes(NamedTuple):
    """Resizings one after another, of maps whose rows come in bands."""

    steps: tuple[Resize, ...]
    row_weights: Tensor | None
    """[rows of the result, rows of the source]; None: there is no step."""

    def source_rows(self, start: int, stop: int) -> tuple[int, int]:
        """First and last + 1 of the source rows that the rows from start to stop need."""
        for step in reversed(self.steps):
            start, stop = step.source_rows(start, stop)
        return start, stop

    def band(self, source: Tensor, first: int, start: int, stop: int) -> Tensor:
        """The rows [n, stop - start, width] from start to stop of the result.

        Args:
            source: the rows [n, rows, source width] that they need.
            first: index of the first of these rows in the whole source.
            start: the first row of the result.
            stop: the last row of the result + 1.
        """
        if self.row_weights is None:
            return source
        weights = self.row_weights[start:stop, first : first + source.shape[1]]
        return weights @ _resize_last(source, self.steps, axis=1)


def resizes(source: Size, steps: Sequence[tuple[Size, Size]], like: Tensor) -> Resizes:
    """The resizings from a size on, without those that change nothing.

    Args:
        source: height and width of the maps before.
        steps: for each resizing the size after it, and the part of that which is kept.
        like: a tensor of the device and the floating type of the maps.
    """
    needed = []
    for whole, kept in steps:
        if not source == whole == kept:
            needed.append(Resize(source, whole, kept))
        source = kept
    if not needed:
        return Resizes((), None)
    height = needed[0].source[0]
    rows = torch.eye(height, dtype=like.dtype, device=like.device)[None]
    return Resizes(tuple(needed), _resize_last(rows, needed, axis=0)[0].T)


def _resize_last(maps: Tensor, steps: Sequence[Resize], axis: int) -> Tensor:
    """Resizes the last dimension of maps [n, rows, length] as the steps do one of their axes."""
    for step in steps:
        if step.source[axis] != step.whole[axis]:
            # Row by row: on a CPU twice as fast as bilinear resizing of maps.
            lines = maps.flatten(0, -2)[:, None]
            lines = F.interpolate(lines, size=step.whole[axis], mode="linear")
            maps = lines.view(*maps.shape[:-1], step.whole[axis])
        maps = maps[..., : step.kept[axis]]
    return maps


def bands(size: Size, channels: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Start and stop of the bands of rows in which a result is formed.

    Args:
        size: height and width of the result.
        channels: maps that a band goes through.
        device: the device of these maps.
    """
    height, width = size
    elements = CACHED if device.type == "cpu" else LAUNCHED
    step = max(elements // max(channels * width, 1), 1)
    for start in range(0, height, step):
        yield start, min(start + step, height)


class LazyMasks(NamedTuple):
    """Mask logits of n queries as they stand in the result."""

    mask_embed: Tensor | None
    """[n, D]; None: the logits themselves stand in ``pixel_features``."""
    pixel_features: Tensor
    """[C, h, w], or the logits [n, h, w]."""
    projection: Convolution | None
    """From the features to the embeddings, as in :class:`~..structures.MaskPrediction`."""
    resizes: Resizes
    size: Size
    """Height and width of the result."""

    @property
    def number(self) -> int:
        """How many masks there are."""
        return len(self.pixel_features if self.mask_embed is None else self.mask_embed)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the logits: float32, or that of the features if it has more digits."""
        return torch.promote_types(self.pixel_features.dtype, torch.float32)

    def select(self, queries: Tensor) -> "LazyMasks":
        """The masks of some queries, given by their indices or by a bool for each."""
        if self.mask_embed is None:
            return self._replace(pixel_features=self.pixel_features[queries])
        return self._replace(mask_embed=self.mask_embed[queries])

    def formed(self) -> "LazyMasks":
        """The same with logits that are formed, at the size of the embeddings."""
        if self.mask_embed is None:
            return self
        maps = self.pixel_features[None]
        if not self.number:  # a convolution refuses to have no output
            logits = maps.new_zeros(0, *maps.shape[2:])
        elif self.projection is not None and self.number < len(self.projection.weight):
            logits = project_queries(self.mask_embed, self.projection)(maps)[0]
        else:
            embeds = (self.projection(maps) if self.projection else maps)[0]
            logits = (self.mask_embed.to(embeds.dtype) @ embeds.flatten(1)).view(
                -1, *embeds.shape[1:]
            )
        return self._replace(mask_embed=None, pixel_features=logits.contiguous(), projection=None)

    def rows(self, start: int, stop: int) -> Tensor:
        """Logits [n, stop - start, width], of masks that are formed."""
        first, last = self.resizes.source_rows(start, stop)
        logits = self.pixel_features[:, first:last].to(self.dtype)
        return self.resizes.band(logits, first, start, stop)

    def in_bands(self, channels: int) -> Iterator[tuple[slice, Tensor]]:
        """The rows of each band, and its logits [n, rows, width]; ``channels`` as in `bands`."""
        masks = self.formed()
        for start, stop in bands(self.size, channels, self.pixel_features.device):
            yield slice(start, stop), masks.rows(start, stop)


def lazy_masks(
    mask_embed: Tensor,
    pixel_features: Tensor,
    padded: Size,
    size: Size,
    output: Size | None = None,
    *,
    projection: Convolution | None = None,
    valid_only: bool = False,
) -> LazyMasks:
    """Masks that are resized to the input, cut to the image, and resized to the output.

    Args:
        mask_embed: [Q, D]
        pixel_features: [C, h, w]
        padded: height and width in pixels of the input that the features cover.
        size: height and width of the image in it, at the top left.
        output: height and width of the result; None: those of the image.
        projection: leads from the features to the embeddings; None: they are the embeddings.
        valid_only: cut off the cells that are padding alone, after the projection.
    """
    grid = (pixel_features.shape[-2], pixel_features.shape[-1])
    cells, covered = grid, padded
    if valid_only:
        some, covered = crop_to_image(pixel_features, size, padded)
        cells = (some.shape[-2], some.shape[-1])
    output = output or size
    like = pixel_features.new_empty(
        0, dtype=torch.promote_types(pixel_features.dtype, torch.float32)
    )
    steps = resizes(grid, [(grid, cells), (covered, size), (output, output)], like)
    return LazyMasks(mask_embed, pixel_features, projection, steps, output)


def as_lazy(mask_logits: Tensor | LazyMasks) -> LazyMasks:
    """Mask logits [n, h, w] that are there already, as they are."""
    if isinstance(mask_logits, LazyMasks):
        return mask_logits
    size = (mask_logits.shape[-2], mask_logits.shape[-1])
    return LazyMasks(None, mask_logits, None, Resizes((), None), size)


def project_queries(mask_embed: Tensor, projection: Convolution) -> Convolution:
    """The convolution that gives mask logits right from the features, without embeddings.

    A convolution is linear, and so is the product with the mask embeddings: each query gets a
    kernel of its own. Less work than the embeddings where there are fewer queries than channels.

    Args:
        mask_embed: [Q, D]
        projection: leads from C channels to the embeddings of D.

    Returns:
        A convolution from C channels to Q mask logits.
    """
    weight, bias = projection
    embed = mask_embed.to(weight.dtype)
    kernels = (embed @ weight.flatten(1)).view(-1, *weight.shape[1:])
    return Convolution(kernels, F.linear(embed, bias[None]).flatten())
