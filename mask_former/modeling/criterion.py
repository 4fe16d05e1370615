"""The training loss: match queries to segments, then weigh (paper, section 3.2)."""

import logging
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.mask_losses import matched_mask_losses
from ..functional.matching import Matches, within_image
from ..functional.points import (
    PointOptions,
    PointSample,
    as_rows,
    draw_points,
    point_losses,
    sample_image,
)
from ..structures import LossWeights, MaskPrediction, MaskTarget

Matcher = Callable[[MaskPrediction, Sequence[MaskTarget]], Matches]
ImagePart = tuple[Tensor, MaskTarget]
"""Embeddings and target of one image, without padding."""

_logger = logging.getLogger(__name__)


class SetCriterion(nn.Module):
    """Classification, focal and dice loss of all decoder layers, already weighted.

    ``empty_weight`` is part of the state dict, as in the original: a checkpoint decides the weight
    of "no object".
    """

    empty_weight: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: Matcher,
        weights: LossWeights,
        no_object_weight: float,
        points: PointOptions | None = None,
    ) -> None:
        """
        Args:
            num_classes: K.
            matcher: pairs queries with segments, for all layers and images at once. With points
                it sees every image as a row of pixels, its points.
            weights: of the three terms.
            no_object_weight: class weight of "no object" in the classification loss; at least 0.
            points: where masks are scored; None: at all pixels, as in the paper.
        """
        super().__init__()
        self.matcher = matcher
        self.weights = weights
        self.points = points
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)
        self._warned_of_surplus = False

    def forward(
        self, prediction: MaskPrediction, targets: Sequence[MaskTarget]
    ) -> dict[str, Tensor]:
        """The weighted losses, scalars.

        Args:
            prediction: of L layers and B images.
            targets: B of them; their masks have one common size, that of the padded batch. Pixels
                that are not valid, or beyond ``size``, count in no cost and no loss.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last layer, and the same with the
            suffix ``_i`` of layer i < L-1.

        Raises:
            ValueError: as the matcher does.
        """
        self._warn_of_surplus(targets, num_queries=prediction.class_logits.shape[2])
        # Half precision overflows in the sums over pixels.
        with torch.autocast(prediction.class_logits.device.type, enabled=False):
            prediction = _at_least_float32(prediction)
            images = _images(prediction.pixel_embed, targets)
            samples = self._sample(images)
            matches = self._match(prediction, targets, samples)
            loss_ce = self._classification_losses(prediction.class_logits, targets, matches)
            loss_mask, loss_dice = self._mask_losses(
                prediction.mask_embed, images, samples, matches
            )
        return _by_name(
            {
                "loss_ce": self.weights.classification * loss_ce,
                "loss_mask": self.weights.mask * loss_mask,
                "loss_dice": self.weights.dice * loss_dice,
            }
        )

    def _sample(self, images: Sequence[ImagePart]) -> list[PointSample]:
        """The points of each image, shared by all layers, by matcher and losses; none if dense."""
        if self.points is None:
            return []
        return [
            sample_image(maps, target, draw_points(target.masks.shape[-2:], self.points, maps))
            for maps, target in images
        ]

    def _match(
        self,
        prediction: MaskPrediction,
        targets: Sequence[MaskTarget],
        samples: Sequence[PointSample],
    ) -> Matches:
        if self.points is not None:
            prediction, targets = as_rows(prediction, samples, self.points.number)
        return self.matcher(prediction, targets)

    def _classification_losses(
        self, class_logits: Tensor, targets: Sequence[MaskTarget], matches: Matches
    ) -> Tensor:
        """Cross-entropy of each layer [L], averaged with the class weights over its B*Q queries."""
        no_object = class_logits.shape[-1] - 1
        classes = torch.full_like(class_logits[..., 0], no_object, dtype=torch.int64)  # [L, B, Q]
        labels = torch.cat([target.labels for target in targets])
        classes[matches.layer, matches.image, matches.query] = labels[
            _flat_target(matches, targets)
        ]
        nll = F.cross_entropy(class_logits.flatten(0, 2), classes.flatten(), reduction="none")
        weights = self.empty_weight.to(class_logits.dtype)[classes].flatten(1)  # [L, B*Q]
        return (weights * nll.view_as(weights)).sum(dim=1) / weights.sum(dim=1)

    def _mask_losses(
        self,
        mask_embed: Tensor,
        images: Sequence[ImagePart],
        samples: Sequence[PointSample],
        matches: Matches,
    ) -> tuple[Tensor, Tensor]:
        """Focal and dice loss of each layer, both [L], per segment of the batch.

        Mask logits are formed for matched queries only, image by image.
        """
        focal = mask_embed.new_zeros(len(mask_embed))
        dice = torch.zeros_like(focal)
        pairs = zip(*(index.split(matches.per_image) for index in matches[:4]), strict=True)
        for i, (layer, image, query, index) in enumerate(pairs):
            embed = mask_embed[layer, image, query]  # [m, D]
            if self.points is None:
                image_focal, image_dice = _dense_losses(embed, *images[i], index)
            else:
                pixel_embed = images[i][0]
                image_focal, image_dice = point_losses(
                    embed, pixel_embed, samples[i], index, self.points
                )
            focal = focal.index_add(0, layer, image_focal)
            dice = dice.index_add(0, layer, image_dice)
        num_masks = _mean_over_ranks(sum(len(target.labels) for _, target in images), focal)
        return focal / num_masks, dice / num_masks

    def _warn_of_surplus(self, targets: Sequence[MaskTarget], num_queries: int) -> None:
        most = max(len(target.labels) for target in targets)
        if most > num_queries and not self._warned_of_surplus:
            self._warned_of_surplus = True
            _logger.warning(
                "An image has %d segments, the model only %d queries: the segments that fit worst "
                "are not learned. Raise MODEL.MASK_FORMER.NUM_OBJECT_QUERIES. (Said once.)",
                most,
                num_queries,
            )


def _images(pixel_embed: Tensor, targets: Sequence[MaskTarget]) -> list[ImagePart]:
    """The B images without their padding; pixel_embed [B, D, h, w]."""
    # The gradient of unbind is a copy, and the largest tensor of the step; one image needs none.
    maps = pixel_embed.unbind() if len(pixel_embed) > 1 else [pixel_embed.squeeze(0)]
    return [within_image(*image) for image in zip(maps, targets, strict=True)]


def _dense_losses(
    mask_embed: Tensor, pixel_embed: Tensor, target: MaskTarget, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of each pair, at the resolution of the input.

    Args:
        mask_embed: [m, D]
        pixel_embed: [D, h, w]
        target: of the image.
        index: [m]; the segment of each pair.
    """
    logits = torch.einsum("md,dhw->mhw", mask_embed, pixel_embed)
    return matched_mask_losses(logits, target.masks, index, target.valid)


def _at_least_float32(prediction: MaskPrediction) -> MaskPrediction:
    half = (torch.float16, torch.bfloat16)
    return MaskPrediction(*(x.float() if x.dtype in half else x for x in prediction))


def _flat_target(matches: Matches, targets: Sequence[MaskTarget]) -> Tensor:
    """Index [M] of each matched segment among the segments of all images."""
    counts = [len(target.labels) for target in targets]
    starts = torch.tensor([0, *counts[:-1]]).cumsum(0)
    # Waiting for the copy would be waiting for the device.
    starts = starts.to(matches.image.device, non_blocking=True)
    return starts[matches.image] + matches.target


def _mean_over_ranks(num_masks: int, like: Tensor) -> Tensor:
    """Number of segments per rank, at least 1, as a scalar of the type and device of ``like``."""
    count = like.new_full((), num_masks)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1)


def _by_name(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes the [L] losses apart; the last layer carries no suffix."""
    last = {name: loss[-1] for name, loss in losses.items()}
    auxiliary = {
        f"{name}_{layer}": loss[layer]
        for layer in range(len(next(iter(losses.values()))) - 1)
        for name, loss in losses.items()
    }
    return last | auxiliary
