"""Cross-entropy of the pixels of a mask in place of the focal loss; the matching stays as it is.

A criterion by the name ``cross_entropy``, for ``--import docs/experiments/cross_entropy.py`` and
``MODEL.MASK_FORMER.CRITERION cross_entropy``. ``MASK_WEIGHT`` stays the weight of the focal cost in
the matching; the loss here weighs ``WEIGHT``, where dice weighs 1. Plain, and for one process.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from mask_former.d2.build.model import build_set_criterion
from mask_former.d2.build.registry import CRITERION_REGISTRY
from mask_former.modeling.criterion import Matcher, SetCriterion
from mask_former.structures import MaskPrediction, MaskTarget

WEIGHT = 1.0


def mask_cross_entropy(mask_logits: Tensor, masks: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the valid pixels of each pair of a mask's logits [M, h, w] and mask [M, H, W]."""
    size = masks.shape[-2:]
    logits = F.interpolate(mask_logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    loss = F.binary_cross_entropy_with_logits(logits, masks.to(logits), reduction="none")
    counts = torch.ones_like(loss[0]) if valid is None else valid.to(loss)
    return (loss * counts).sum(dim=(1, 2)) / counts.sum().clamp(min=1)


class CrossEntropyCriterion(SetCriterion):
    """The paper's losses but for ``loss_mask``."""

    def forward(
        self, prediction: MaskPrediction, targets: Sequence[MaskTarget]
    ) -> dict[str, Tensor]:
        """As that of :class:`SetCriterion`."""
        losses = super().forward(prediction, targets)
        matches = self.matcher(prediction, targets)
        sums = prediction.mask_embed.new_zeros(len(prediction.mask_embed))
        for i, target in enumerate(targets):
            layer, query, segment = (
                index[matches.image == i]
                for index in (matches.layer, matches.query, matches.target)
            )
            embed = prediction.mask_embed[layer, i, query]  # [M, D]
            logits = torch.einsum("md,dhw->mhw", embed, prediction.pixel_embed[i])
            loss = mask_cross_entropy(logits, target.masks[segment], target.valid)
            sums = sums.index_add(0, layer, loss)
        *before, last = WEIGHT * sums / max(1, sum(len(target.labels) for target in targets))
        return losses | {"loss_mask": last} | {f"loss_mask_{i}": x for i, x in enumerate(before)}


@CRITERION_REGISTRY.register()
def cross_entropy(cfg: CfgNode, matcher: Matcher) -> SetCriterion:
    """The criterion of a configuration, with its weights of class and dice loss."""
    weights = build_set_criterion(cfg, matcher).weights
    return CrossEntropyCriterion(
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        matcher=matcher,
        weights=weights,
        no_object_weight=cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT,
    )
