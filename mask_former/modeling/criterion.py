"""The training loss: match queries to segments, then weigh (paper, section 3.2)."""

import logging
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.functional.mask_losses import matched_mask_losses
from mask_former.functional.matching import Matches
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

Matcher = Callable[[MaskPrediction, Sequence[MaskTarget]], Matches]

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
    ) -> None:
        """
        Args:
            num_classes: K.
            matcher: pairs queries with segments, for all layers and images at once.
            weights: of the three terms.
            no_object_weight: class weight of "no object" in the classification loss; at least 0.
        """
        super().__init__()
        self.matcher = matcher
        self.weights = weights
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
            targets: B of them; their masks have one common size, that of the padded batch.

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
            matches = self.matcher(prediction, targets)
            loss_ce = self._classification_losses(prediction.class_logits, targets, matches)
            loss_mask, loss_dice = self._mask_losses(prediction, targets, matches)
        return _by_name(
            {
                "loss_ce": self.weights.classification * loss_ce,
                "loss_mask": self.weights.mask * loss_mask,
                "loss_dice": self.weights.dice * loss_dice,
            }
        )

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
        self, prediction: MaskPrediction, targets: Sequence[MaskTarget], matches: Matches
    ) -> tuple[Tensor, Tensor]:
        """Focal and dice loss of each layer, both [L], per segment of the batch.

        Mask logits are formed for matched queries only, image by image, and compared at the
        resolution of the input.
        """
        focal = prediction.mask_embed.new_zeros(len(prediction.mask_embed))
        dice = torch.zeros_like(focal)
        pairs = zip(*(index.split(matches.per_image) for index in matches[:4]), strict=True)
        for target, pixel_embed, (layer, image, query, index) in zip(
            targets, prediction.pixel_embed, pairs, strict=True
        ):
            embed = prediction.mask_embed[layer, image, query]  # [m, D]
            logits = torch.einsum("md,dhw->mhw", embed, pixel_embed)
            image_focal, image_dice = matched_mask_losses(logits, target.masks[index])
            focal = focal.index_add(0, layer, image_focal)
            dice = dice.index_add(0, layer, image_dice)
        num_masks = _mean_over_ranks(sum(len(target.labels) for target in targets), focal)
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


def _at_least_float32(prediction: MaskPrediction) -> MaskPrediction:
    half = (torch.float16, torch.bfloat16)
    return MaskPrediction(*(x.float() if x.dtype in half else x for x in prediction))


def _flat_target(matches: Matches, targets: Sequence[MaskTarget]) -> Tensor:
    """Index [M] of each matched segment among the segments of all images."""
    counts = [len(target.labels) for target in targets]
    starts = torch.tensor([0, *counts[:-1]]).cumsum(0).to(matches.image.device)
    return starts[matches.image] + matches.target


def _mean_over_ranks(num_masks: int, like: Tensor) -> Tensor:
    """Number of segments per rank, at least 1, as a scalar of the type and device of ``like``."""
    count = like.new_tensor(num_masks)
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
