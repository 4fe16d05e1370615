"""Meta-architecture: from Detectron2's input dicts to losses or to results."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from mask_former.d2.build import mask_former_arguments
from mask_former.d2.errors import InputError
from mask_former.d2.registry import register
from mask_former.functional.inference import (
    general_semantic_inference,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from mask_former.functional.targets import pad_target
from mask_former.structures import InferenceOptions, MaskPrediction, MaskTarget


@register(META_ARCH_REGISTRY, "MaskFormer")
class MaskFormer(nn.Module):
    """Mask classification for semantic, panoptic and instance segmentation (paper, figure 2)."""

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        criterion: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 32,
        inference: InferenceOptions,
    ) -> None:
        """
        Args:
            backbone: normalised images [B, 3, H, W] to features by name.
            sem_seg_head: features by name to a ``MaskPrediction``.
            criterion: (prediction, targets) to weighted losses by name.
            pixel_mean: of each channel, in 0..255.
            pixel_std: of each channel.
            size_divisibility: batches are padded to a multiple; up to 1, to the largest image.
            inference: which results to give, and how.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.size_divisibility = size_divisibility
        self.inference = inference
        self.register_buffer(
            "pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False
        )
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from a config."""
        return mask_former_arguments(cfg)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, results in evaluation.

        Args:
            batched_inputs: a dict for each image:

                * image: [3, height, width] in 0..255, channels as the config's INPUT.FORMAT.
                * instances (training): ``Instances`` with gt_classes [N] and gt_masks
                  [N, height, width].
                * height, width (optional): size of the result, else that of the image.

        Returns:
            In training the weighted losses by name. Else a dict for each image:

                * sem_seg: scores [K, height, width].
                * panoptic_seg: segment ids [height, width] (int32; 0 is void) and the list of
                  segments.
                * instances: ``Instances`` with pred_masks [n, height, width] (bool), pred_boxes,
                  scores and pred_classes, best first.
        """
        images = self._normalize_and_pad(batched_inputs)
        prediction = self.sem_seg_head(self.backbone(images.tensor))
        if self.training:
            return self.criterion(prediction, self._targets(batched_inputs, images))
        return self._results(prediction.last(), batched_inputs, images)

    def _normalize_and_pad(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        # Padding comes after normalising, so it is zero for the backbone.
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        return ImageList.from_tensors(images, self.size_divisibility)

    def _targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> list[MaskTarget]:
        size = images.tensor.shape[-2:]
        targets = []
        for x in batched_inputs:
            if "instances" not in x:
                raise InputError(
                    f"{x.get('file_name', 'an image')} has no 'instances', which training needs; "
                    "choose the mapper by INPUT.DATASET_MAPPER_NAME"
                )
            instances = x["instances"].to(self.device)
            target = MaskTarget(instances.gt_classes, instances.gt_masks)
            targets.append(pad_target(target, size))
        return targets

    def _results(
        self, prediction: MaskPrediction, batched_inputs: list[dict[str, Any]], images: ImageList
    ) -> list[dict[str, Any]]:
        mask_logits = prediction.mask_logits()
        results = []
        for x, class_logits, logits, size in zip(
            batched_inputs,
            prediction.class_logits[-1],
            mask_logits,
            images.image_sizes,
            strict=True,
        ):
            padded = tuple(images.tensor.shape[-2:])
            output = (x.get("height", size[0]), x.get("width", size[1]))
            results.append(self._result(class_logits, logits, padded, size, output))
        return results

    def _result(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        padded: tuple[int, int],
        size: tuple[int, int],
        output: tuple[int, int],
    ) -> dict[str, Any]:
        """The result of one image.

        Args:
            class_logits: [Q, K+1]
            mask_logits: [Q, h, w]
            padded: height and width of the batch.
            size: of the image in it.
            output: of the result.
        """
        mask_logits = _upsample(mask_logits, padded)
        if not self.inference.upsample_masks_first:
            scores = self._semantic(class_logits, mask_logits)
            return {"sem_seg": sem_seg_postprocess(scores, size, *output)}
        mask_logits = sem_seg_postprocess(mask_logits, size, *output)
        result: dict[str, Any] = {}
        if self.inference.semantic:
            result["sem_seg"] = self._semantic(class_logits, mask_logits)
        if self.inference.panoptic:
            result["panoptic_seg"] = panoptic_inference(
                class_logits,
                mask_logits,
                self.inference.thing_ids,
                self.inference.object_mask_threshold,
                self.inference.overlap_threshold,
            )
        if self.inference.instance:
            result["instances"] = self._instances(class_logits, mask_logits)
        return result

    def _semantic(self, class_logits: Tensor, mask_logits: Tensor) -> Tensor:
        if not self.inference.general_semantic:
            return semantic_inference(class_logits, mask_logits)
        return general_semantic_inference(
            class_logits,
            mask_logits,
            self.inference.object_mask_threshold,
            self.inference.overlap_threshold,
        )

    def _instances(self, class_logits: Tensor, mask_logits: Tensor) -> Instances:
        found = instance_inference(
            class_logits, mask_logits, self.inference.thing_ids, self.inference.max_instances
        )
        height, width = mask_logits.shape[-2:]
        return Instances(
            (height, width),
            pred_masks=found.masks,
            pred_boxes=Boxes(found.boxes),
            scores=found.scores,
            pred_classes=found.labels,
        )


def _upsample(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0]
