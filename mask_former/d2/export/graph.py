"""One task of a model, from the bytes of pictures to its result, in tensors alone."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import SemanticSegmentor
from torch import Tensor, nn

from ...functional.fixed_shapes import (
    general_semantic_scores,
    instance_segments,
    panoptic_segments,
    semantic_scores,
)
from ...functional.padding import crop_to_image
from ...structures import MaskPrediction, Padding
from ..errors import InputError
from ..meta_arch import MaskFormer, resize

TASK_KEYS = {"semantic": "SEMANTIC_ON", "panoptic": "PANOPTIC_ON", "instance": "INSTANCE_ON"}
"""The tasks, and the keys of MODEL.MASK_FORMER.TEST that have a model do them."""
OUTPUTS = {
    "semantic": ("labels", "scores"),
    "panoptic": ("segment_ids", "classes", "scores", "areas"),
    "instance": ("masks", "classes", "scores", "areas"),
    "raw": ("class_logits", "mask_logits"),
    "raw_per_pixel": ("class_logits",),
}
"""Names of the tensors of a graph, by its kind."""
Outputs = tuple[Tensor, ...]


def default_task(cfg: CfgNode) -> str:
    """The richest result that a configuration asks for."""
    test = cfg.MODEL.MASK_FORMER.TEST
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        return "semantic"
    return next(task for task in ("panoptic", "instance", "semantic") if test[TASK_KEYS[task]])


class ExportedModel(nn.Module):
    """Normalises, pads, runs the network and forms the result; no shape depends on a value."""

    model: Any
    """As given, with attributes that nn.Module's type does not know."""
    divisor: int
    """Images are padded to a multiple."""

    def __init__(self, model: nn.Module, task: str, half: bool = False) -> None:
        """Wraps a model.

        Args:
            model: in evaluation; with ``half`` its network is changed in place.
            task: one of ``TASK_KEYS``, or "raw" for class and mask logits, of a per-pixel
                baseline class logits, at the size of the network's maps.
            half: compute the network in float16; the result is formed in float32 all the same.

        Raises:
            InputError: the model is none of ours, or gives no such result.
        """
        super().__init__()
        self.per_pixel = type(model) is SemanticSegmentor
        if not self.per_pixel and not isinstance(model, MaskFormer):
            raise InputError(
                f"MODEL.META_ARCHITECTURE is {type(model).__name__}; models of MaskFormer and of "
                "SemanticSegmentor can be exported"
            )
        if self.per_pixel and task not in ("semantic", "raw"):
            raise InputError(
                f"--task is {task}, but a per-pixel baseline gives semantic labels alone; leave "
                "--task out"
            )
        self.model = model
        self.task = task
        self.dtype = torch.float16 if half else torch.float32
        padder: Any = model.backbone if self.per_pixel else model
        self.divisor = max(1, padder.size_divisibility)
        if half:
            model.backbone.half()
            model.sem_seg_head.half()

    @property
    def kind(self) -> str:
        """Which of ``OUTPUTS`` it gives."""
        return "raw_per_pixel" if self.per_pixel and self.task == "raw" else self.task

    def forward(self, image: Tensor, height: int, width: int) -> Outputs:
        """The tensors that ``OUTPUTS`` names, of the size of the result.

        Args:
            image: [B, 3, H, W]; uint8, channels as the configuration's INPUT.FORMAT says.
            height: of the result; it counts for nothing in raw results, like ``width``.
            width: of the result.
        """
        size = (image.shape[2], image.shape[3])
        normalized = (image.float() - self.model.pixel_mean) / self.model.pixel_std
        right, bottom = -size[1] % self.divisor, -size[0] % self.divisor
        images = F.pad(normalized, (0, right, 0, bottom)) if self.divisor > 1 else normalized
        images = images.to(self.dtype)
        if self.per_pixel:
            logits = self.model.sem_seg_head(self.model.backbone(images))[0].float()
            if self.task == "raw":
                return (logits,)
            return best(resize(logits[:, :, : size[0], : size[1]], (height, width)))
        padding = None
        if self.model.valid_mask:
            padding = Padding([size], (images.shape[2], images.shape[3]))
        prediction = self.model.network(images, padding)
        if self.task == "raw":
            return prediction.class_logits[-1].float(), prediction.mask_logits().float()
        return self._result(prediction, size, padding, (height, width))

    def _result(
        self,
        prediction: MaskPrediction,
        size: tuple[int, int],
        padding: Padding | None,
        output: tuple[int, int],
    ) -> Outputs:
        options = self.model.inference
        class_logits, masks = prediction.class_logits[-1].float(), prediction.mask_logits().float()
        padded = (size[0] + -size[0] % self.divisor, size[1] + -size[1] % self.divisor)
        if padding is not None:
            masks, padded = crop_to_image(masks, size, padded)
        masks = resize(masks, padded)[:, :, : size[0], : size[1]]
        thresholds = options.object_mask_threshold, options.overlap_threshold
        if self.task == "semantic":
            masks = resize(masks, output) if options.upsample_masks_first else masks
            if options.general_semantic:
                scores = general_semantic_scores(class_logits, masks, *thresholds)
            else:
                scores = semantic_scores(class_logits, masks)
            return best(scores if options.upsample_masks_first else resize(scores, output))
        masks = resize(masks, output)
        if self.task == "panoptic":
            found = panoptic_segments(class_logits, masks, options.thing_ids, *thresholds)
        else:
            found = instance_segments(class_logits, masks, options.thing_ids, options.max_instances)
        return tuple(found)  # plain, as torch.export.save knows no other


def best(scores: Tensor) -> Outputs:
    """Labels [B, H, W] (int32) and scores [B, H, W] of the best class of [B, K, H, W]."""
    found = scores.max(dim=1)
    return found.indices.int(), found.values
