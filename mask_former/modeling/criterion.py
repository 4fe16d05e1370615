"""The training loss: match queries to segments, then weigh (paper, section 3.2)."""

import logging
import math
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

_TINY = 1e-30
"""Below any sum of class weights that is not 0."""

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
        class_weights: Sequence[float] = (),
        points: PointOptions | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            num_classes: K.
            matcher: pairs queries with segments, for all layers and images at once. With points
                it sees every image as a row of pixels, its points.
            weights: weights of the three terms.
            no_object_weight: class weight of "no object" in the classification loss; at least 0.
            class_weights: those of the K classes there; at least 0. Empty: each weighs 1.
            points: where masks are scored; None: at all pixels, as in the paper.
        """
        super().__init__()
        self.matcher = matcher
        self.weights = weights
        self.points = points
        empty_weight = torch.ones(num_classes + 1)
        if class_weights:
            empty_weight[:-1] = torch.tensor(class_weights)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)
        # Labels of the segments of each image of the batches of all processes, while a call sees a
        # part of them; None: a call sees the batch of a process.
        self.whole_batch: list[Tensor] | None = None
        self._warned_of_surplus = False

    def forward(
        self, prediction: MaskPrediction, targets: Sequence[MaskTarget]
    ) -> dict[str, Tensor]:
        """The weighted losses, scalars.

        Over several processes segments and class weights are counted over all of them, so that the
        mean of the processes' losses is the loss of the joint batch.

        Args:
            prediction: what the model gives, of L layers and B images.
            targets: those of the B images, with integer labels and masks of one common size, that
                of the padded batch. Pixels that are not valid, or beyond ``size``, count in no
                cost and no loss.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last layer, and the same with the
            suffix ``_i`` of layer i < L-1.

        Raises:
            ValueError: prediction and targets do not fit each other; and as the matcher does.
        """
        _check(prediction, targets, num_classes=len(self.empty_weight) - 1)
        targets = [t._replace(labels=t.labels.long(), masks=t.masks.bool()) for t in targets]
        self._warn_of_surplus(targets, num_queries=prediction.class_logits.shape[2])
        # Half precision overflows in the sums over pixels.
        with torch.autocast(prediction.class_logits.device.type, enabled=False):
            prediction = _at_least_float32(prediction)
            # The gradient of unbind is a copy, and the largest tensor of the step; one image needs
            # none.
            pixels = prediction.pixel_features
            maps = pixels.unbind() if len(pixels) > 1 else [pixels.squeeze(0)]
            images = [within_image(*image) for image in zip(maps, targets, strict=True)]
            samples = self._sample(images)
            matches = self._match(prediction, targets, samples)
            nll, class_weights = self._classification(prediction.class_logits, targets, matches)
            focal, dice = self._mask_losses(prediction.mask_embed, images, samples, matches)
            if self.whole_batch is None:
                num_masks = class_weights.new_full((1,), sum(len(t.labels) for t in targets))
                totals = mean_over_ranks(torch.cat([num_masks, class_weights]))
            else:
                totals = self._count(self.whole_batch, prediction.class_logits)
            num_masks, class_weights = totals[0], totals[1:]
        return _by_name(
            {
                # A weighted mean over queries, as DETR's; the paper's weight of "no object" is 0.1
                # (section 4.1). Both are 0 where that weighs nothing and there is no segment.
                "loss_ce": self.weights.classification * nll / class_weights.clamp(min=_TINY),
                "loss_mask": self.weights.mask * focal / num_masks,
                "loss_dice": self.weights.dice * dice / num_masks,
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

    def _classification(
        self, class_logits: Tensor, targets: Sequence[MaskTarget], matches: Matches
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the cross-entropy of the B*Q queries of each layer, and of the weights.

        Returns:
            Two tensors [L].
        """
        no_object = class_logits.shape[-1] - 1
        classes = torch.full_like(class_logits[..., 0], no_object, dtype=torch.int64)  # [L, B, Q]
        counts = [len(target.labels) for target in targets]
        # Where the segments of each image begin among those of all. Waiting for the copy would be
        # waiting for the device.
        starts = torch.tensor([0, *counts[:-1]]).cumsum(0).to(classes.device, non_blocking=True)
        segment = starts[matches.image] + matches.target
        labels = torch.cat([target.labels for target in targets])
        classes[matches.layer, matches.image, matches.query] = labels[segment]
        nll = F.cross_entropy(class_logits.flatten(0, 2), classes.flatten(), reduction="none")
        weights = self.empty_weight.to(class_logits.dtype)[classes].flatten(1)  # [L, B*Q]
        return (weights * nll.view_as(weights)).sum(dim=1), weights.sum(dim=1)

    def _count(self, labels: Sequence[Tensor], class_logits: Tensor) -> Tensor:
        """Number of segments and sum of class weights [2] of images of all processes, their mean.

        Of an image with more segments than queries, which of them are matched is not known: all
        count with their mean weight.
        """
        num_queries = class_logits.shape[2]
        shares = [torch.full((len(own),), min(1, num_queries / max(len(own), 1))) for own in labels]
        of_all = torch.cat(list(labels)).to(class_logits.device, non_blocking=True)
        share = torch.cat(shares).to(class_logits)
        weights = self.empty_weight.to(class_logits.dtype)
        free = sum(max(num_queries - len(own), 0) for own in labels)
        class_weights = (weights[of_all] * share).sum() + free * weights[-1]
        num_masks = torch.full_like(class_weights, max(len(of_all), 1))
        return torch.stack([num_masks, class_weights]) / world_size()

    def _mask_losses(
        self,
        mask_embed: Tensor,
        images: Sequence[ImagePart],
        samples: Sequence[PointSample],
        matches: Matches,
    ) -> tuple[Tensor, Tensor]:
        """Focal and dice loss of each layer, both [L], summed over the segments.

        Mask logits are formed for matched queries only, image by image.
        """
        focal = mask_embed.new_zeros(len(mask_embed))
        dice = torch.zeros_like(focal)
        pairs = zip(*(index.split(matches.per_image) for index in matches[:4]), strict=True)
        for i, (layer, image, query, index) in enumerate(pairs):
            embed = mask_embed[layer, image, query]  # [m, D]
            pixel_embed, target = images[i]
            if self.points is None:
                logits = torch.einsum("md,dhw->mhw", embed, pixel_embed)
                losses = matched_mask_losses(logits, target.masks, index, target.valid)
            else:
                losses = point_losses(embed, pixel_embed, samples[i], index, self.points)
            focal = focal.index_add(0, layer, losses[0])
            dice = dice.index_add(0, layer, losses[1])
        return focal, dice

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


def _check(prediction: MaskPrediction, targets: Sequence[MaskTarget], num_classes: int) -> None:
    """Refuses what would end in an index error or, worse, in a number."""
    shape = list(prediction.class_logits.shape)
    if len(shape) != 4 or prediction.mask_embed.dim() != 4:
        raise ValueError(
            f"class logits must be [L, B, Q, K+1] and mask embeddings [L, B, Q, D], got {shape} "
            f"and {list(prediction.mask_embed.shape)}; of a single layer, take x[None]"
        )
    if shape[3] != num_classes + 1:
        raise ValueError(
            f"the criterion has {num_classes} classes, so class logits need {num_classes + 1} "
            f'columns, one for "no object", got {shape[3]}'
        )
    if not shape[1] or len(targets) != shape[1]:
        raise ValueError(f"got {len(targets)} targets for {shape[1]} images; each needs one")
    height, width = prediction.pixel_features.shape[-2:]
    for image, target in enumerate(targets):
        size = list(target.masks.shape[-2:])
        same = size == list(targets[0].masks.shape[-2:])
        # A map of stride s has ceil(H / s) rows; SIZE_DIVISIBILITY 0 leaves sides that s does not
        # divide.
        strides = {round(size[0] / height), round(size[1] / width), size[0] / height}
        if not same or not any(
            math.ceil(size[0] / s) == height and math.ceil(size[1] / s) == width
            for s in strides
            if s > 0
        ):
            raise ValueError(
                f"the masks of target {image} are {size[0]}x{size[1]} pixels, but those of target "
                f"0 {targets[0].masks.shape[-2]}x{targets[0].masks.shape[-1]} and the predictions "
                f"{height}x{width}: pad masks to the one size of the batch (pad_target)"
            )


def _at_least_float32(prediction: MaskPrediction) -> MaskPrediction:
    """The same with the embeddings at hand, in a type in which sums over pixels do not overflow."""
    tensors = prediction.class_logits, prediction.mask_embed, prediction.pixel_embed
    half = torch.float16, torch.bfloat16
    class_logits, mask_embed, pixel_embed = (x.float() if x.dtype in half else x for x in tensors)
    return MaskPrediction(class_logits, mask_embed, pixel_embed)


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(totals: Tensor) -> Tensor:
    """The mean over all processes of numbers [n] of each; the first is at least 1 in their sum."""
    world = world_size()
    if world > 1:
        dist.all_reduce(totals)
    totals[0].clamp_(min=1)
    return totals / world


def _by_name(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes the [L] losses apart; the last layer carries no suffix."""
    last = {name: loss[-1] for name, loss in losses.items()}
    auxiliary = {
        f"{name}_{layer}": loss[layer]
        for layer in range(len(next(iter(losses.values()))) - 1)
        for name, loss in losses.items()
    }
    return last | auxiliary
