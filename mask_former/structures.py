"""The structures that predictions, targets and loss weights travel in, and the shape letters.

Shape letters, the same in every docstring of the package:

========  ==========================================================================
B         images in the batch
H, W      height and width of the (padded) input, in pixels
h, w      height and width of the per-pixel embeddings, a quarter of H and W
L         transformer decoder layers with a prediction (1 without deep supervision)
Q         queries
K         classes; index K of a class axis is "no object"
N         segments (targets) of one image
M         matched (query, target) pairs, of all layers and images
C         width of the transformer
D         width of the mask embedding (``MASK_DIM``)
P         points or pixels after flattening
========  ==========================================================================
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Convolution(NamedTuple):
    """Weights of a plain convolution: stride 1, zero padding, an output of the input's size."""

    weight: Tensor
    """[D, C, k, k], k odd."""
    bias: Tensor
    """[D]"""

    def __call__(self, maps: Tensor) -> Tensor:
        """[B, C, h, w] to [B, D, h, w], in the type of the maps."""
        weight, bias = self.weight.to(maps.dtype), self.bias.to(maps.dtype)
        return F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2)


class MaskPrediction(NamedTuple):
    """Class and mask predictions of all decoder layers; the last layer is the answer.

    Mask logits are the product of mask and per-pixel embeddings (paper, section 3.3). They are not
    stored: whoever needs some takes the product for just those queries. The last step to the
    per-pixel embeddings may be still to come, as ``projection``.
    """

    class_logits: Tensor
    """[L, B, Q, K+1]; before the softmax."""
    mask_embed: Tensor
    """[L, B, Q, D]"""
    pixel_features: Tensor
    """[B, C, h, w], shared by all layers; without ``projection`` they are the embeddings, C = D."""
    projection: Convolution | None = None
    """From the features to the embeddings."""

    @property
    def pixel_embed(self) -> Tensor:
        """The per-pixel embeddings [B, D, h, w]."""
        return self.projection(self.pixel_features) if self.projection else self.pixel_features

    def last(self) -> "MaskPrediction":
        """The prediction of the last layer alone, with L = 1."""
        return self._replace(class_logits=self.class_logits[-1:], mask_embed=self.mask_embed[-1:])

    def mask_logits(self, layer: int = -1) -> Tensor:
        """Mask logits [B, Q, h, w] of all queries of one layer; before the sigmoid."""
        return torch.einsum("bqd,bdhw->bqhw", self.mask_embed[layer], self.pixel_embed)

    @classmethod
    def from_logits(cls, class_logits: Tensor, mask_logits: Tensor) -> "MaskPrediction":
        """The prediction of a model that gives masks and no embeddings.

        Each mask becomes a channel of the per-pixel embeddings, which its query alone picks.

        Args:
            class_logits: [L, B, Q, K+1], or of one layer [B, Q, K+1]; before the softmax.
            mask_logits: [L, B, Q, h, w], or of one layer [B, Q, h, w]; before the sigmoid.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        if class_logits.dim() == 3 and mask_logits.dim() == 4:
            class_logits, mask_logits = class_logits[None], mask_logits[None]
        if mask_logits.dim() != 5 or class_logits.shape[:-1] != mask_logits.shape[:3]:
            raise ValueError(
                "class logits must be [L, B, Q, K+1] and mask logits [L, B, Q, h, w], got "
                f"{list(class_logits.shape)} and {list(mask_logits.shape)}"
            )
        layers, batch, queries = mask_logits.shape[:3]
        channels = mask_logits.transpose(0, 1).flatten(1, 2)  # [B, L * Q, h, w]
        choice = torch.eye(layers * queries, dtype=channels.dtype, device=channels.device)
        choice = choice.view(layers, 1, queries, -1).expand(-1, batch, -1, -1)
        return cls(class_logits, choice, channels)

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Any]) -> "MaskPrediction":
        """The prediction in the dict that heads of this family of models give.

        Args:
            outputs: ``pred_logits`` [B, Q, K+1] and ``pred_masks`` [B, Q, h, w] of the last layer;
                optionally ``aux_outputs``, a list of the same two of each layer before it.

        Raises:
            ValueError: one of the two is missing, or their shapes do not fit each other.
        """
        layers = [*outputs.get("aux_outputs", ()), outputs]
        for name in ("pred_logits", "pred_masks"):
            if any(name not in layer for layer in layers):
                raise ValueError(
                    f"the head's output has {', '.join(outputs) or 'no keys'}, but {name} is "
                    "needed, in each of its aux_outputs too"
                )
        class_logits = torch.stack([layer["pred_logits"] for layer in layers])
        return cls.from_logits(class_logits, torch.stack([layer["pred_masks"] for layer in layers]))


class MaskTarget(NamedTuple):
    """The segments of one image."""

    labels: Tensor
    """[N]; int64, 0..K-1."""
    masks: Tensor
    """[N, H, W]; bool."""
    valid: Tensor | None = None
    """[H, W]; bool, the pixels that take part in cost and loss; None: all."""
    size: tuple[int, int] | None = None
    """Height and width of the image within its padding, in pixels; None: all of it is image."""


class Padding(NamedTuple):
    """Where the images of a batch end and its padding, right and bottom, begins."""

    sizes: Sequence[tuple[int, int]]
    """Height and width of each of the B images, in pixels."""
    padded: tuple[int, int]
    """(H, W) of the batch."""


class LossWeights(NamedTuple):
    """Weights of the three terms, of matching cost and loss alike (paper, section 4.1)."""

    classification: float = 1.0
    mask: float = 20.0
    dice: float = 1.0


class InferenceOptions(NamedTuple):
    """Which results to give, any of the three in one pass, and how to form them."""

    semantic: bool = True
    panoptic: bool = False
    instance: bool = False
    general_semantic: bool = False
    """Semantic scores of the queries that general inference keeps, instead of marginalising."""
    semantic_labels: bool = False
    """Labels [H, W] instead of scores [K, H, W] as semantic result."""
    upsample_masks_first: bool = False
    """Resize masks to the output before semantic scores are formed, rather than the scores; the
    other two results need it."""
    thing_ids: Collection[int] = ()
    """Classes whose segments stay separate, and that have instances."""
    object_mask_threshold: float = 0.0
    """See :func:`~mask_former.functional.panoptic.panoptic_inference`, as the next."""
    overlap_threshold: float = 0.0
    max_instances: int = 100
    tiles: Sequence[int] = (0, 0)
    """Side of the tiles in which a larger image is worked through, and how far they overlap at
    least, in pixels; side 0: it is not."""
