"""The matcher of the original, for projects that call it on the dicts of this family of models."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..functional.matching import bipartite_matching
from ..structures import LossWeights, MaskPrediction, MaskTarget


class HungarianMatcher(nn.Module):
    """:func:`~mask_former.functional.matching.bipartite_matching` of one layer."""

    def __init__(
        self, cost_class: float = 1.0, cost_mask: float = 1.0, cost_dice: float = 1.0
    ) -> None:
        """Takes the weights of the three terms of the cost."""
        super().__init__()
        self.weights = LossWeights(cost_class, cost_mask, cost_dice)

    @torch.no_grad()
    def forward(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """The pairs of least cost.

        Args:
            outputs: ``pred_logits`` [B, Q, K+1] and ``pred_masks`` [B, Q, h, w]; other layers, if
                there are any, are left out.
            targets: for each image ``labels`` [N], 0..K-1, and ``masks`` [N, H, W].

        Returns:
            For each image the indices of its queries, ascending, and of their segments, each
            [min(Q, N)] (int64) on the CPU.
        """
        prediction = MaskPrediction.from_logits(outputs["pred_logits"], outputs["pred_masks"])
        device = prediction.class_logits.device
        segments = []
        for target in targets:
            masks = target["masks"].to(device)
            masks = masks if masks.is_floating_point() else masks.bool()
            segments.append(MaskTarget(target["labels"].to(device), masks))
        matches = bipartite_matching(prediction, segments, self.weights)
        pairs = torch.stack([matches.query, matches.target]).cpu().split(matches.per_image, dim=1)
        return [(query, target) for query, target in pairs]
