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

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Convolution(NamedTuple):
    """Weights of a convolution of stride 1 whose output has the size of its input."""

    weight: Tensor
    """[D, C, k, k], k odd."""
    bias: Tensor
    """[D]"""


class MaskPrediction(NamedTuple):
    """Class and mask predictions of all decoder layers; the last layer is the answer.

    Mask logits are the product of the two embeddings (paper, section 3.3). They are not stored:
    whoever needs some takes the product for just those queries.
    """

    class_logits: Tensor
    """[L, B, Q, K+1]; before the softmax."""
    mask_embed: Tensor
    """[L, B, Q, D]"""
    pixel_embed: Tensor
    """[B, D, h, w]; shared by all layers."""

    def last(self) -> "MaskPrediction":
        """The prediction of the last layer alone, with L = 1."""
        return MaskPrediction(self.class_logits[-1:], self.mask_embed[-1:], self.pixel_embed)

    def mask_logits(self, layer: int = -1) -> Tensor:
        """Mask logits [B, Q, h, w] of all queries of one layer; before the sigmoid."""
        return torch.einsum("bqd,bdhw->bqhw", self.mask_embed[layer], self.pixel_embed)


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
    """Weights of the three terms, of the matching cost and of the loss alike (paper, eq. 2)."""

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
