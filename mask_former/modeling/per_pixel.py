"""The paper's two per-pixel baselines: one score for each class and pixel (paper, section 4)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .criterion import mean_over_ranks, world_size
from .head import PixelDecoderCheckpoint
from .mask_decoder import TransformerMaskDecoder

# Pixels of the input for a cell of the per-pixel embeddings, and so of the scores.
_STRIDE = 4

Result = tuple[Tensor | None, dict[str, Tensor]]


class _PerPixelHead(PixelDecoderCheckpoint, ABC):
    """Scores from a subclass; results and losses as Detectron2's ``SemanticSegmentor`` asks."""

    def __init__(
        self, pixel_decoder: nn.Module, predictor: nn.Module, ignore_value: int, loss_weight: float
    ) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        # Numbers of the labelled pixels of each image of the batches of all processes, while a
        # call sees a part of them; None: a call sees the batch of a process.
        self.whole_batch: list[int] | None = None

    def forward(self, features: Mapping[str, Tensor], targets: Tensor | None = None) -> Result:
        """Losses in training, scores in evaluation.

        Args:
            features: [B, channels, height, width] by name.
            targets: class ids [B, H, W] (training); evaluation ignores them.

        Returns:
            In training None and the weighted losses by name; else class logits
            [B, K, 4 h, 4 w], before the softmax, and an empty dict.
        """
        logits = self._logits(features)
        if not self.training:
            return _upsample(logits[-1]), {}
        if targets is None:
            raise ValueError("training needs targets: the inputs have no 'sem_seg'")
        num_pixels = self._count(targets)
        names = [f"loss_sem_seg_{layer}" for layer in range(len(logits) - 1)]
        layers = zip(["loss_sem_seg", *names], [logits[-1], *logits[:-1]], strict=True)
        return None, {name: self._loss(layer, targets) / num_pixels for name, layer in layers}

    @abstractmethod
    def _logits(self, features: Mapping[str, Tensor]) -> Tensor:
        """Class logits [L, B, K, h, w]; in evaluation those of the last layer suffice."""

    def _count(self, targets: Tensor) -> Tensor:
        """How many pixels have a class, at least 1; over several processes, their mean."""
        if self.whole_batch is not None:
            return torch.tensor(max(sum(self.whole_batch), 1) / world_size())
        return mean_over_ranks((targets != self.ignore_value).sum()[None])[0]

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, summed over the pixels that are not ignored.

        Args:
            logits: [B, K, h, w]
            targets: [B, H, W]
        """
        height, width = targets.shape[-2:]
        # Half precision is too coarse for a sum over pixels.
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        logits = _upsample(logits)[..., :height, :width]
        loss = F.cross_entropy(logits, targets, ignore_index=self.ignore_value, reduction="sum")
        return self.loss_weight * loss


class PerPixelBaselineHead(_PerPixelHead):
    """Per-pixel embeddings, each classified by a linear layer."""

    def __init__(
        self,
        *,
        pixel_decoder: nn.Module,
        num_classes: int,
        mask_dim: int = 256,
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ) -> None:
        """Puts the parts together.

        Args:
            pixel_decoder: its ``forward_features`` gives a pair as ``PixelDecoderOutput``.
            num_classes: K.
            mask_dim: D.
            ignore_value: class id of pixels that count in no loss.
            loss_weight: factor of the loss.
        """
        predictor = nn.Conv2d(mask_dim, num_classes, kernel_size=1)
        nn.init.kaiming_normal_(predictor.weight, mode="fan_out", nonlinearity="relu")
        assert predictor.bias is not None
        nn.init.zeros_(predictor.bias)
        super().__init__(
            pixel_decoder=pixel_decoder,
            predictor=predictor,
            ignore_value=ignore_value,
            loss_weight=loss_weight,
        )

    def _logits(self, features: Mapping[str, Tensor]) -> Tensor:
        pixel_embed, _ = self.pixel_decoder.forward_features(features)
        return self.predictor(pixel_embed)[None]


class PerPixelBaselinePlusHead(_PerPixelHead):
    """MaskFormer's transformer without mask classification: query k gives the scores of class k."""

    predictor: TransformerMaskDecoder

    def __init__(
        self,
        *,
        pixel_decoder: nn.Module,
        mask_decoder: TransformerMaskDecoder,
        transformer_in_feature: str,
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ) -> None:
        """Puts the parts together.

        Args:
            pixel_decoder: its ``forward_features`` gives a pair as ``PixelDecoderOutput``.
            mask_decoder: one without ``num_classes`` and with as many queries as classes.
            transformer_in_feature: as :class:`MaskFormerHead`.
            ignore_value: class id of pixels that count in no loss.
            loss_weight: factor of the loss of each layer.
        """
        super().__init__(
            pixel_decoder=pixel_decoder,
            predictor=mask_decoder,
            ignore_value=ignore_value,
            loss_weight=loss_weight,
        )
        self.transformer_in_feature = transformer_in_feature

    def _logits(self, features: Mapping[str, Tensor]) -> Tensor:
        pixel_embed, encoded = self.pixel_decoder.forward_features(features)
        feature = self.transformer_feature(self.transformer_in_feature, features, encoded)
        mask_embed = self.predictor.mask_embed(self.predictor.decode(feature))  # [L, B, Q, D]
        if not self.training:
            mask_embed = mask_embed[-1:]
        return torch.einsum("lbqd,bdhw->lbqhw", mask_embed, pixel_embed)


def _upsample(logits: Tensor) -> Tensor:
    return F.interpolate(logits, scale_factor=_STRIDE, mode="bilinear", align_corners=False)
