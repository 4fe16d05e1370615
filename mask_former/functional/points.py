"""Costs and losses at sampled points instead of all pixels.

Kirillov et al. 2020 (PointRend), section 3.1, on masks: many candidates are drawn, the most
uncertain are kept, the rest of the points are uniform. Sampling is linear, so it is done on the
per-pixel embeddings, once an image, and the product with the queries comes after: the same number,
and no mask of a layer exists at full size. Candidates are shared by all layers; each mask chooses
its own among them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..structures import MaskPrediction, MaskTarget
from .mask_losses import matched_mask_losses


class PointOptions(NamedTuple):
    """How many points; the defaults are PointRend's."""

    number: int
    """Points that each mask is scored at."""
    oversample_ratio: float = 3.0
    """Candidates that an image draws, per point; at least 1."""
    importance_ratio: float = 0.75
    """Share of the points that are a mask's most uncertain candidates; the rest are uniform."""

    @property
    def candidates(self) -> int:
        """Points drawn for choice. The first ``number`` of them serve the matching cost."""
        return round(self.oversample_ratio * self.number)

    @property
    def chosen(self) -> int:
        """Candidates that each mask keeps."""
        return round(self.importance_ratio * self.number)


class PointSample(NamedTuple):
    """One image at its P points: the candidates, then those that every mask takes."""

    points: Tensor
    """[P, 2]; x in 0..W, y in 0..H, in pixels; the centre of the first pixel is (0.5, 0.5)."""
    size: tuple[int, int]
    """(H, W)"""
    embed: Tensor
    """[D, P]; per-pixel embeddings, without gradient."""
    target: MaskTarget
    """The image as a row of P pixels: masks [N, 1, P], valid [1, P] or None."""


@torch.no_grad()
def sample_image(pixel_embed: Tensor, target: MaskTarget, points: Tensor) -> PointSample:
    """Everything that cost and losses need of an image.

    Args:
        pixel_embed: [D, h, w], of the image without padding.
        target: masks [N, H, W], of the same part.
        points: [P, 2]; (x, y) in pixels.
    """
    size = (target.masks.shape[-2], target.masks.shape[-1])
    valid = target.valid if target.valid is None else sample_masks(target.valid[None], points)
    row = MaskTarget(target.labels, sample_masks(target.masks, points)[:, None], valid)
    return PointSample(points, size, sample_embeddings(pixel_embed, points, size), row)


def draw_points(size: Sequence[int], options: PointOptions, like: Tensor) -> Tensor:
    """Uniform points (x, y) [P, 2], in pixels: candidates, then the rest.

    Args:
        size: (H, W) of the image.
        options: how many points.
        like: gives type and device.
    """
    number, candidates = options.number, options.candidates
    parts = [number, candidates - number, number - options.chosen]
    x, y = torch.rand(2, sum(parts), dtype=like.dtype, device=like.device)
    # Rows in order, within each part: neighbours are read together, four times as fast on a CPU.
    y = torch.cat([part.sort().values for part in y.split(parts)])
    return torch.stack([x * size[1], y * size[0]], dim=1)


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """The pixel that holds each point.

    Args:
        masks: [N, H, W]; any type.
        points: [P, 2]; (x, y) in pixels.

    Returns:
        [N, P]
    """
    height, width = masks.shape[-2:]
    column, row = points.long().T
    # Rounding may give a point just inside the border the coordinate of the border.
    return masks[:, row.clamp(max=height - 1), column.clamp(max=width - 1)]


def sample_embeddings(maps: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, and at the borders as ``interpolate`` to ``size`` (align_corners=False).

    Args:
        maps: [D, h, w]
        points: [P, 2]; (x, y) in pixels.
        size: (H, W) that the maps cover.

    Returns:
        [D, P]
    """
    grid = _grid(points, size)
    return F.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)[0, :, 0]


def _grid(points: Tensor, size: tuple[int, int]) -> Tensor:
    """The points as grid_sample wants them: [1, 1, P, 2] in -1..1."""
    x, y = points.T
    return torch.stack([x * (2 / size[1]) - 1, y * (2 / size[0]) - 1], dim=1)[None, None]


def as_rows(
    prediction: MaskPrediction, samples: Sequence[PointSample], number: int
) -> tuple[MaskPrediction, list[MaskTarget]]:
    """What a matcher sees: every image as a row of its first ``number`` points.

    Predictions and targets of images one pixel high are what every matcher knows.
    """
    pixel_embed = torch.stack([sample.embed[:, None, :number] for sample in samples])
    targets = []
    for labels, masks, valid, _ in (sample.target for sample in samples):
        valid = valid if valid is None else valid[:, :number]
        targets.append(MaskTarget(labels, masks[..., :number], valid))
    return prediction._replace(pixel_features=pixel_embed, projection=None), targets


def point_losses(
    mask_embed: Tensor,
    pixel_embed: Tensor,
    sample: PointSample,
    index: Tensor,
    options: PointOptions,
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of each pair, at the points of its mask.

    Args:
        mask_embed: [M, D]
        pixel_embed: [D, h, w], of which the sample was taken.
        sample: the sample of the image.
        index: [M]; the segment of each pair.
        options: those that the sample was drawn with.

    Returns:
        Two tensors [M].
    """
    with torch.no_grad():
        logits = mask_embed @ sample.embed  # [M, P]
        columns = choose_points(logits, sample.target.valid, options)
    masks = sample.target.masks[index, 0].gather(1, columns)[:, None]
    valid = sample.target.valid
    valid = valid if valid is None else valid[0, columns][:, None]
    grid = _grid(sample.points, sample.size)
    logits = _ChosenLogits.apply(mask_embed, pixel_embed, logits, columns, grid)
    return matched_mask_losses(logits[:, None], masks, valid=valid)


def choose_points(logits: Tensor, valid: Tensor | None, options: PointOptions) -> Tensor:
    """Columns [M, number] at which each mask is scored.

    Args:
        logits: [M, P]; at the candidates and the rest.
        valid: [1, P] or None; invalid candidates come last.
        options: how many.
    """
    # The nearer a logit is to 0, the less sure the mask (PointRend, section 3.1).
    doubt = logits[:, : options.candidates].abs()
    if valid is not None:
        doubt.masked_fill_(~valid[:, : options.candidates], torch.inf)
    chosen = doubt.topk(options.chosen, largest=False, sorted=False).indices
    rest = torch.arange(options.candidates, logits.shape[1], device=logits.device)
    return torch.cat([chosen, rest.expand(len(logits), -1)], dim=1)


class _ChosenLogits(torch.autograd.Function):
    """Takes the chosen logits [M, number] of those at all points, [M, P].

    The gradient goes to the maps of the M masks first, so that nothing of size M x points x D, nor
    the sampled embeddings, is kept or formed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        mask_embed: Tensor,
        pixel_embed: Tensor,
        logits: Tensor,
        columns: Tensor,
        grid: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(mask_embed, pixel_embed, columns, grid)
        return logits.gather(1, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        mask_embed, pixel_embed, columns, grid = ctx.saved_tensors
        at_points = gradient.new_zeros(len(mask_embed), grid.shape[2]).scatter_(
            1, columns, gradient
        )
        # The transpose of sample_embeddings. Only the shape of the maps matters to their gradient.
        shape = gradient.new_zeros(1).expand(1, len(mask_embed), *pixel_embed.shape[-2:])
        maps = torch.ops.aten.grid_sampler_2d_backward(
            at_points[None, :, None], shape, grid, 0, 1, False, [True, False]
        )[0][0].flatten(1)  # [M, h * w]; 0: bilinear, 1: border
        mask_gradient = maps @ pixel_embed.flatten(1).T
        return mask_gradient, (mask_embed.T @ maps).view(pixel_embed.shape), None, None, None
