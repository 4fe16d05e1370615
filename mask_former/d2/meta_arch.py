"""Meta-architecture: from Detectron2's input dicts to losses or to results."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..functional.fixed_shapes import semantic_scores
from ..functional.instances import instance_inference
from ..functional.lazy_masks import LazyMasks, lazy_masks
from ..functional.panoptic import panoptic_inference
from ..functional.semantic import general_semantic_inference, semantic_inference
from ..functional.targets import pad_target
from ..structures import (
    InferenceOptions,
    MaskPrediction,
    MaskTarget,
    Padding,
)
from .build.model import mask_former_arguments
from .build.registry import register
from .errors import InputError
from .tiles import fits, tiled_result


@register(META_ARCH_REGISTRY, "MaskFormer")
class MaskFormer(nn.Module):
    """Mask classification for semantic, panoptic and instance segmentation (paper, figure 2)."""

    pixel_mean: Tensor

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
        """Puts the parts together.

        Args:
            backbone: normalised images [B, 3, H, W] to features by name.
            sem_seg_head: features by name, and with ``valid_mask`` their ``Padding``, to a
                ``MaskPrediction``, or to a dict as ``MaskPrediction.from_outputs`` takes it.
            criterion: (prediction, targets) to weighted losses by name.
            pixel_mean: mean of each channel, in 0..255.
            pixel_std: standard deviation of each channel.
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
        if torch.jit.is_tracing():
            return self._traced_results(batched_inputs, self.normalize_and_pad(batched_inputs))
        if not self.training:
            options = self.inference
            results = self._results_of_any_size if options.tiles[0] else self._results
            return results(batched_inputs, options)
        images = self.normalize_and_pad(batched_inputs)
        padding = self._padding(batched_inputs, images)
        # Targets first: their copies to a device do not wait behind the forward pass.
        targets = self._targets(batched_inputs, images, padding)
        return self.criterion(self.network(images.tensor, padding), targets)

    def normalize_and_pad(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """The images of the inputs, [B, 3, H, W]."""
        # Padding comes after normalising, so it is zero for the backbone.
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        return ImageList.from_tensors(images, self.size_divisibility)

    def network(self, images: Tensor, padding: Padding | None = None) -> MaskPrediction:
        """Backbone and head alone: tensors in, tensors out.

        Args:
            images: [B, 3, H, W], normalised.
            padding: where the images end, for a head that is told; None: all is image.
        """
        told = () if padding is None else (padding,)
        output = self.sem_seg_head(self.backbone(images), *told)
        if isinstance(output, Mapping):  # as heads of other projects give it
            return MaskPrediction.from_outputs(output)
        return output

    def _padding(
        self, batched_inputs: Sequence[dict[str, Any]], images: ImageList
    ) -> Padding | None:
        """Where the images end, if anybody asks; mappers that have padded say it themselves."""
        if not self.valid_mask:
            return None
        sizes = images.image_sizes
        if self.training:
            pairs = zip(batched_inputs, sizes, strict=True)
            sizes = [tuple(x.get("image_size", size)) for x, size in pairs]
        return Padding(sizes, tuple(images.tensor.shape[-2:]))

    def _targets(
        self,
        batched_inputs: Sequence[dict[str, Any]],
        images: ImageList,
        padding: Padding | None,
    ) -> list[MaskTarget]:
        targets = []
        for i, x in enumerate(batched_inputs):
            if "instances" not in x:
                raise InputError(
                    f"{x.get('file_name', 'an image')} has no 'instances', which training needs; "
                    "choose the mapper by INPUT.DATASET_MAPPER_NAME"
                )
            instances = x["instances"].to(self.device)
            target = MaskTarget(instances.gt_classes, instances.gt_masks)
            if padding is not None:
                valid = x.get("valid")
                if valid is None:
                    valid = torch.ones(instances.image_size, dtype=torch.bool, device=self.device)
                valid = valid.to(self.device, non_blocking=True)
                target = target._replace(valid=valid, size=padding.sizes[i])
            targets.append(pad_target(target, images.tensor.shape[-2:]))
        return targets

    def _results_of_any_size(
        self, batched_inputs: Sequence[dict[str, Any]], options: InferenceOptions
    ) -> list[dict[str, Any]]:
        """What evaluation gives: for images that fit into a tile at once, for each other alone."""
        small = [x for x in batched_inputs if fits(x, options)]
        results = iter(self._results(small, options))

        def of_tile(sample: dict[str, Any]) -> dict[str, Any]:
            (result,) = self._results([sample], options._replace(semantic_labels=False))
            return result

        return [
            next(results)
            if fits(x, options)
            else tiled_result(of_tile, x, _output_size(x, x["image"].shape[-2:]), options)
            for x in batched_inputs
        ]

    def _results(
        self, batched_inputs: Sequence[dict[str, Any]], options: InferenceOptions
    ) -> list[dict[str, Any]]:
        """What evaluation gives for each image, of all in one pass."""
        if not batched_inputs:
            return []
        images = self.normalize_and_pad(batched_inputs)
        prediction = self.network(images.tensor, self._padding(batched_inputs, images))
        features = prediction.pixel_features
        kind = features.device.type
        if torch.is_autocast_enabled(kind):
            features = features.to(torch.get_autocast_dtype(kind))
        class_logits = prediction.class_logits[-1]
        results = []
        if options.panoptic or options.instance or options.general_semantic:
            class_logits = class_logits.cpu()  # one read for all images: queries are chosen there
        # The sums of inference keep single precision, as half would lose small differences.
        with torch.autocast(kind, enabled=False):
            for i, (x, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
                output = _output_size(x, size)
                masks = lazy_masks(
                    prediction.mask_embed[-1, i],
                    features[i],
                    tuple(images.tensor.shape[-2:]),
                    size,
                    output if options.upsample_masks_first else size,
                    projection=prediction.projection,
                    valid_only=self.valid_mask,
                )
                results.append(_result(class_logits[i], masks, output, options))
        return results

    def _traced_results(
        self, batched_inputs: Sequence[dict[str, Any]], images: ImageList
    ) -> list[dict[str, Any]]:
        """Semantic results by whole maps: bands of rows would become constants of the graph."""
        options = self.inference
        others = options.panoptic or options.instance or options.general_semantic
        if self.training or others or self.valid_mask:
            raise InputError(
                "only marginal semantic results of a model in evaluation can be traced: turn "
                "MODEL.MASK_FORMER.TEST.PANOPTIC_ON and INSTANCE_ON off, SEMANTIC_ON on, set "
                "SEMANTIC_INFERENCE to 'marginal', and turn MODEL.MASK_FORMER.VALID_MASK off"
            )
        prediction = self.network(images.tensor)
        masks = resize(prediction.mask_logits(), images.tensor.shape[-2:])
        class_logits = prediction.class_logits[-1]
        results = []
        for i, (x, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            output = _output_size(x, size)
            logits = masks[i : i + 1, :, : size[0], : size[1]]
            if options.upsample_masks_first:
                logits = resize(logits, output)
            scores = semantic_scores(class_logits[i : i + 1], logits)
            scores = scores if options.upsample_masks_first else resize(scores, output)
            found = scores[0].argmax(dim=0) if options.semantic_labels else scores[0]
            results.append({"sem_seg": found})
        return results


def _result(
    class_logits: Tensor, masks: LazyMasks, output: tuple[int, int], options: InferenceOptions
) -> dict[str, Any]:
    """The result of one image.

    Args:
        class_logits: [Q, K+1]
        masks: Q masks of the size of the image, or of the output if they are resized first.
        output: height and width of the result.
        options: which results to give, and how.
    """
    result: dict[str, Any] = {}
    if options.semantic:
        masks = masks.formed()  # of all queries, for the other results too
        result["sem_seg"] = _semantic(class_logits, masks, output, options)
    if options.panoptic:
        thresholds = options.object_mask_threshold, options.overlap_threshold
        result["panoptic_seg"] = panoptic_inference(
            class_logits, masks, options.thing_ids, *thresholds
        )
    if options.instance:
        found = instance_inference(class_logits, masks, options.thing_ids, options.max_instances)
        result["instances"] = Instances(
            output,
            pred_masks=found.masks,
            pred_boxes=Boxes(found.boxes),
            scores=found.scores,
            pred_classes=found.labels,
        )
    return result


def _semantic(
    class_logits: Tensor, masks: LazyMasks, output: tuple[int, int], options: InferenceOptions
) -> Tensor:
    labels = options.semantic_labels
    if not options.general_semantic:
        return semantic_inference(class_logits, masks, output, labels)
    return general_semantic_inference(
        class_logits,
        masks,
        options.object_mask_threshold,
        options.overlap_threshold,
        output,
        labels,
    )


def _output_size(sample: Mapping[str, Any], size: Sequence[int]) -> tuple[int, int]:
    """Height and width of the result: those that the sample asks for, else the image's."""
    return sample.get("height", size[0]), sample.get("width", size[1])


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear; maps [B, n, h, w] to a size (H, W)."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
