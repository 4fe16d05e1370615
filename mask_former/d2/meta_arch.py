"""Meta-architecture: from Detectron2's input dicts to losses or to results."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..functional.instances import InstanceResult, pending_instances
from ..functional.lazy_masks import LazyMasks, lazy_masks
from ..functional.panoptic import pending_panoptic
from ..functional.semantic import general_semantic_inference, semantic_inference
from ..functional.targets import pad_target
from ..functional.transfer import Pending, read_once
from ..structures import (
    Convolution,
    InferenceOptions,
    MaskPrediction,
    MaskTarget,
    Padding,
)
from .build.model import mask_former_arguments
from .build.registry import register
from .errors import InputError


@register(META_ARCH_REGISTRY, "MaskFormer")
class MaskFormer(nn.Module):
    """Mask classification for semantic, panoptic and instance segmentation (paper, figure 2)."""

    predict: Callable[..., MaskPrediction]
    """:func:`predict`, in evaluation without padding; ``MODEL.COMPILE`` makes one graph of it."""

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
        valid_mask: bool = False,
    ) -> None:
        """
        Args:
            backbone: normalised images [B, 3, H, W] to features by name.
            sem_seg_head: features by name, and with ``valid_mask`` their ``Padding``, to a
                ``MaskPrediction``.
            criterion: (prediction, targets) to weighted losses by name.
            pixel_mean: of each channel, in 0..255.
            pixel_std: of each channel.
            size_divisibility: batches are padded to a multiple; up to 1, to the largest image.
            inference: which results to give, and how.
            valid_mask: padded pixels, also those that a mapper has padded, take part in no
                attention, no cost and no loss, ignored ones in no cost and no loss. Convolutions
                and norms over a map, GroupNorm for one, still see the padding.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.size_divisibility = size_divisibility
        self.inference = inference
        self.valid_mask = valid_mask
        self.predict = predict
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
                * image_size, valid (training with ``valid_mask``, optional): height and width
                  without the mapper's padding, else those of the image; and the pixels
                  [height, width] (bool) that count, else all.
                * height, width (optional): size of the result, else that of the image.

        Returns:
            In training the weighted losses by name. Else a dict for each image:

                * sem_seg: scores [K, height, width], or labels [height, width] (int64).
                * panoptic_seg: segment ids [height, width] (int32; 0 is void) and the list of
                  segments.
                * instances: ``Instances`` with pred_masks [n, height, width] (bool), pred_boxes,
                  scores and pred_classes, best first.
        """
        images = self.normalize_and_pad(batched_inputs)
        if not self.training:
            return self._results(batched_inputs, images)
        sizes = [
            tuple(x.get("image_size", size))
            for x, size in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        prediction = self._predict(images, sizes)
        return self.criterion(prediction, self._targets(batched_inputs, images, sizes))

    def normalize_and_pad(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """The images of the inputs, [B, 3, H, W]."""
        # Padding comes after normalising, so it is zero for the backbone.
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        return ImageList.from_tensors(images, self.size_divisibility)

    def _predict(
        self, images: ImageList, sizes: Sequence[tuple[int, int]], **options: bool
    ) -> MaskPrediction:
        parts = self.backbone, self.sem_seg_head, images.tensor
        if self.valid_mask:
            return predict(*parts, Padding(sizes, tuple(images.tensor.shape[-2:])), **options)
        return (predict if self.training else self.predict)(*parts, **options)

    def _last_convolution(self) -> Convolution | None:
        """Of a head that can leave it out, see ``MaskFormerHead``."""
        find = getattr(self.sem_seg_head, "last_convolution", None)
        return find() if find is not None else None

    def _targets(
        self,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        sizes: Sequence[tuple[int, int]],
    ) -> list[MaskTarget]:
        targets = []
        for x, size in zip(batched_inputs, sizes, strict=True):
            if "instances" not in x:
                raise InputError(
                    f"{x.get('file_name', 'an image')} has no 'instances', which training needs; "
                    "choose the mapper by INPUT.DATASET_MAPPER_NAME"
                )
            instances = x["instances"].to(self.device)
            target = MaskTarget(instances.gt_classes, instances.gt_masks)
            if self.valid_mask:
                valid = x.get("valid", torch.ones(instances.image_size, dtype=torch.bool))
                target = target._replace(valid=valid.to(self.device), size=size)
            targets.append(pad_target(target, images.tensor.shape[-2:]))
        return targets

    def _results(
        self, batched_inputs: list[dict[str, Any]], images: ImageList
    ) -> list[dict[str, Any]]:
        convolution = self._last_convolution()
        options = {} if convolution is None else {"embed": False, "release": True}
        prediction = self._predict(images, images.image_sizes, **options)
        padded = tuple(images.tensor.shape[-2:])
        results = []
        pixel_embeds = _in_autocast_type(prediction.pixel_embed)
        # The sums of inference keep single precision, as half would lose small differences.
        with torch.autocast(self.device.type, enabled=False):
            for x, class_logits, mask_embed, pixel_embed, size in zip(
                batched_inputs,
                prediction.class_logits[-1],
                prediction.mask_embed[-1],
                pixel_embeds,
                images.image_sizes,
                strict=True,
            ):
                output = (x.get("height", size[0]), x.get("width", size[1]))
                masks = lazy_masks(
                    mask_embed,
                    pixel_embed,
                    padded,
                    size,
                    output if self.inference.upsample_masks_first else size,
                    valid_only=self.valid_mask,
                    convolution=convolution,
                )
                results.append(self._result(class_logits, masks, output))
        return results

    def _result(
        self, class_logits: Tensor, masks: LazyMasks, output: tuple[int, int]
    ) -> dict[str, Any]:
        """The result of one image.

        Args:
            class_logits: [Q, K+1]
            masks: Q of them, of the size of the image, or of the output if they are resized first.
            output: height and width of the result.
        """
        options, result = self.inference, {}
        if options.semantic:
            masks = masks.convolved()  # of all queries, for the other results too
            result["sem_seg"] = self._semantic(class_logits, masks, output)
        pending: dict[str, Pending] = {}
        if options.panoptic:
            thresholds = options.object_mask_threshold, options.overlap_threshold
            pending["panoptic_seg"] = pending_panoptic(
                class_logits, masks, options.thing_ids, *thresholds
            )
        if options.instance:
            pending["instances"] = pending_instances(
                class_logits, masks, options.thing_ids, options.max_instances
            )
        result |= zip(pending, read_once(*pending.values()), strict=True)
        if options.instance:
            result["instances"] = _to_detectron2(result["instances"])
        return result

    def _semantic(self, class_logits: Tensor, masks: LazyMasks, output: tuple[int, int]) -> Tensor:
        labels = self.inference.semantic_labels
        if not self.inference.general_semantic:
            return semantic_inference(class_logits, masks, output, labels)
        return general_semantic_inference(
            class_logits,
            masks,
            self.inference.object_mask_threshold,
            self.inference.overlap_threshold,
            output,
            labels,
        )


def _to_detectron2(found: InstanceResult) -> Instances:
    return Instances(
        tuple(found.masks.shape[-2:]),
        pred_masks=found.masks,
        pred_boxes=Boxes(found.boxes),
        scores=found.scores,
        pred_classes=found.labels,
    )


def predict(
    backbone: nn.Module,
    head: nn.Module,
    images: Tensor,
    padding: Padding | None = None,
    **options: bool,
) -> MaskPrediction:
    """What the head finds in normalised images [B, 3, H, W]."""
    features = backbone(images)
    # Another project's head takes features alone.
    return head(features, **options) if padding is None else head(features, padding, **options)


def _in_autocast_type(x: Tensor) -> Tensor:
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
