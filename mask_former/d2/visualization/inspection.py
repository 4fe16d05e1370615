"""One picture after the network: its results at any thresholds, without running it again."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ...functional.instances import instance_inference
from ...functional.lazy_masks import LazyMasks, lazy_masks
from ...functional.semantic import general_semantic_inference, semantic_inference
from ...structures import InferenceOptions, Padding
from ..errors import InputError
from ..meta_arch import MaskFormer
from ..predictor import Predictor, Sample
from .queries import Explanation, Thresholds, explain_queries
from .regions import Predictions


class Inspection(NamedTuple):
    """What the network says of one picture."""

    class_logits: Tensor
    """[Q, K+1]"""
    masks: LazyMasks
    """Q of them, formed, of the size of the picture."""
    semantic_masks: LazyMasks
    """The same, but of the size that the network has seen where scores are resized, not masks."""
    options: InferenceOptions
    """Of the model."""

    def explain(self, thresholds: Thresholds) -> Explanation:
        """Panoptic segments and what became of each query."""
        return explain_queries(self.class_logits, self.masks, self.options.thing_ids, thresholds)

    def semantic(self, thresholds: Thresholds) -> Predictions:
        """The labels [H, W]; the thresholds matter to general semantic inference alone."""
        size, masks = self.masks.size, self.semantic_masks
        if self.options.general_semantic:
            labels = general_semantic_inference(
                self.class_logits, masks, *thresholds, output=size, labels=True
            )
        else:
            labels = semantic_inference(self.class_logits, masks, size, labels=True)
        return {"sem_seg": labels}

    def instances(self, threshold: float) -> Predictions:
        """Instances whose score is at least the threshold, best first."""
        options = self.options
        found = instance_inference(
            self.class_logits, self.masks, options.thing_ids, options.max_instances
        )
        instances = Instances(
            self.masks.size,
            pred_masks=found.masks,
            pred_boxes=Boxes(found.boxes),
            scores=found.scores,
            pred_classes=found.labels,
        )
        return {"instances": instances[found.scores >= threshold]}

    def mask(self, query: int) -> np.ndarray:
        """The mask [H, W] of one query before inference: probabilities in 0..255, uint8."""
        one = self.masks.select(torch.tensor([query], device=self.class_logits.device))
        picture = np.empty(self.masks.size, np.uint8)
        for rows, logits in one.in_bands(1):
            picture[rows] = (255 * logits[0].sigmoid()).round().byte().cpu().numpy()
        return picture


def passed_whole(options: InferenceOptions) -> str:
    """A sentence that tells of ``TEST.TILES``, which are of no account here; "" without them."""
    if not options.tiles[0]:
        return ""
    return (
        f"MODEL.MASK_FORMER.TEST.TILES is {list(options.tiles)}, but queries belong to one pass of "
        "the network: every picture is looked at whole here, so that the results of pictures "
        "larger than a tile differ from those of demo/demo.py and tools/predict.py."
    )


def inspectable(predictor: Predictor) -> MaskFormer:
    """The predictor's model, if it is one of queries.

    Raises:
        InputError: it is a per-pixel model.
    """
    model = predictor.model
    if not isinstance(model, MaskFormer):
        raise InputError(
            f"MODEL.META_ARCHITECTURE is {type(model).__name__}, a model without queries, so that "
            "there are none to explain; give weights of a MaskFormer"
        )
    return model


@torch.no_grad()
def run_network(
    model: MaskFormer, sample: Sample
) -> tuple[Tensor, Callable[[tuple[int, int]], LazyMasks]]:
    """What the network says of one picture, as the model itself asks it.

    Args:
        model: in evaluation.
        sample: the picture, as the predictor prepares it.

    Returns:
        Class logits [Q, K+1], and what forms the Q masks for a result of any height and width.
    """
    images = model.normalize_and_pad([sample])
    (size,), padded = images.image_sizes, tuple(images.tensor.shape[-2:])
    padding = Padding([size], padded) if model.valid_mask else None
    prediction = model.network(images.tensor, padding)

    def masks_of(output: tuple[int, int]) -> LazyMasks:
        return lazy_masks(
            prediction.mask_embed[-1, 0],
            prediction.pixel_features[0],
            padded,
            size,
            output,
            projection=prediction.projection,
            valid_only=model.valid_mask,
        ).formed()

    return prediction.class_logits[-1, 0], masks_of


@torch.no_grad()
def inspect(predictor: Predictor, picture: np.ndarray) -> Inspection:
    """Runs the network on a picture [H, W, 3] (BGR, uint8).

    The picture goes through whole, where ``TEST.TILES`` would cut it, see ``passed_whole``.

    Raises:
        InputError: the model has no queries, or the picture is none.
    """
    model, sample = inspectable(predictor), predictor.sample(picture)
    class_logits, masks_of = run_network(model, sample)
    masks = semantic_masks = masks_of((sample["height"], sample["width"]))
    if not model.inference.upsample_masks_first:
        semantic_masks = masks_of(tuple(sample["image"].shape[-2:]))
    return Inspection(class_logits, masks, semantic_masks, model.inference)
