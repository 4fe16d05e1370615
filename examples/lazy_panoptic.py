"""MaskFormer R50 on COCO panoptic as a LazyConfig: what differs from ``lazy_semantic.py``.

The numbers are those of ``configs/coco-panoptic/maskformer_panoptic_R50_bs64_554k.yaml``.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from mask_former.d2.data.augmentation import ResizeShortestEdge
from mask_former.d2.data.mappers import DETRPanopticDatasetMapper
from mask_former.d2.evaluation.panoptic import CheckedPanopticEvaluator
from mask_former.modeling.pixel_decoder import TransformerEncoderPixelDecoder
from mask_former.structures import InferenceOptions

from .lazy_semantic import dataloader, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

CLASSES = 133
THINGS = 80  # the first ones

head = model.sem_seg_head
head.pixel_decoder["_target_"] = TransformerEncoderPixelDecoder
head.pixel_decoder.encoder_layers = 6
head.transformer_in_feature = "transformer_encoder"
head.mask_decoder.in_channels = 256  # of the encoded feature
head.mask_decoder.num_classes = model.criterion.num_classes = CLASSES
model.size_divisibility = 0  # pad only to the largest picture of the batch
model.inference = L(InferenceOptions)(
    semantic=True,
    panoptic=True,
    upsample_masks_first=True,
    thing_ids=list(range(THINGS)),
    object_mask_threshold=0.8,
    overlap_threshold=0.8,
)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1], milestones=[369_600], num_updates=554_400
    ),
    warmup_factor=1.0,
    warmup_length=0.0,
)

sides = list(range(480, 801, 32))
dataloader.train.dataset.names = "coco_2017_train_panoptic"
dataloader.train.mapper = L(DETRPanopticDatasetMapper)(
    crop_gen=[
        L(ResizeShortestEdge)(short_edge_length=[400, 500, 600], sample_style="choice"),
        L(T.RandomCrop)(crop_type="absolute_range", crop_size=[384, 600]),
    ],
    tfm_gens=[
        L(T.RandomFlip)(),
        L(ResizeShortestEdge)(short_edge_length=sides, max_size=1333, sample_style="choice"),
    ],
    image_format="RGB",
    num_classes=CLASSES,
)
dataloader.train.total_batch_size = 64
dataloader.test.dataset.names = "coco_2017_val_panoptic"
dataloader.test.mapper.augmentations = [
    L(ResizeShortestEdge)(short_edge_length=800, max_size=1333, sample_style="choice")
]
dataloader.evaluator = L(CheckedPanopticEvaluator)(
    dataset_name="coco_2017_val_panoptic", output_dir="output/lazy_panoptic/inference"
)
train.output_dir = "output/lazy_panoptic"
train.max_iter = 554_400
