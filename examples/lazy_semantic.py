"""MaskFormer R50 on ADE20K-150 as a LazyConfig: plain constructors, no registry and no cfg.

In the form that Detectron2's ``tools/lazyconfig_train_net.py`` takes::

    python lazyconfig_train_net.py --config-file examples/lazy_semantic.py --num-gpus 8

The numbers are those of ``configs/ade20k-150/maskformer_R50_bs16_160k.yaml``; every part can be
replaced by another project's, the matcher for one by ``L(my_matcher)(...)``.
"""

import itertools
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mask_former.d2.data.augmentation import ColorJitter, ResizeShortestEdge
from mask_former.d2.data.mappers import EvaluationMapper, MaskFormerSemanticDatasetMapper
from mask_former.d2.evaluation.semantic import CheckedSemSegEvaluator
from mask_former.d2.meta_arch import MaskFormer
from mask_former.functional.matching import bipartite_matching
from mask_former.modeling.criterion import Matcher, SetCriterion
from mask_former.modeling.head import MaskFormerHead
from mask_former.modeling.mask_decoder import TransformerMaskDecoder
from mask_former.modeling.pixel_decoder import BasePixelDecoder
from mask_former.structures import InferenceOptions, LossWeights

CLASSES = 150
ITERATIONS = 160_000


def bipartite(weights: LossWeights) -> Matcher:
    """The matcher; a LazyCall takes keywords alone, so ``partial`` needs a name."""
    return partial(bipartite_matching, weights=weights)


def parameter_groups(model: nn.Module, lr: float, backbone_lr: float) -> list[dict[str, Any]]:
    """A group for each parameter: the backbone learns slower, norms and queries do not decay."""
    undecayed = (nn.GroupNorm, nn.LayerNorm, nn.Embedding)
    return [
        {
            "params": [parameter],
            "lr": backbone_lr if path.startswith("backbone") else lr,
            "weight_decay": 0.0 if isinstance(module, undecayed) else 1e-4,
        }
        for path, module in model.named_modules()
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad
    ]


class ClippingAdamW(torch.optim.AdamW):
    """AdamW whose step first limits the norm of the gradient of the whole model."""

    def __init__(self, params: Iterable, max_norm: float, **options: Any) -> None:
        """Takes ``max_norm``, and AdamW's own arguments."""
        super().__init__(params, **options)
        self.max_norm = max_norm

    def step(self, closure: Any = None) -> Any:
        """See the class."""
        nn.utils.clip_grad_norm_(
            itertools.chain(*(group["params"] for group in self.param_groups)), self.max_norm
        )
        return super().step(closure)


weights = L(LossWeights)(classification=1.0, mask=20.0, dice=1.0)

model = L(MaskFormer)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
        out_features=["res2", "res3", "res4", "res5"],
    ),
    sem_seg_head=L(MaskFormerHead)(
        pixel_decoder=L(BasePixelDecoder)(
            in_channels={"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
        ),
        mask_decoder=L(TransformerMaskDecoder)(
            in_channels=2048, num_classes=CLASSES, num_queries=100
        ),
        transformer_in_feature="res5",
    ),
    criterion=L(SetCriterion)(
        num_classes=CLASSES,
        matcher=L(bipartite)(weights=weights),
        weights=weights,
        no_object_weight=0.1,
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    inference=L(InferenceOptions)(semantic=True),
)

optimizer = L(ClippingAdamW)(
    params=L(parameter_groups)(lr=1e-4, backbone_lr=1e-5),  # the trainer adds the model
    lr=1e-4,
    max_norm=0.01,
)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9),
    warmup_factor=1.0,
    warmup_length=0.0,
)

LOADERS = {
    "train": L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="ade20k_sem_seg_train", filter_empty=False),
        mapper=L(MaskFormerSemanticDatasetMapper)(
            augmentations=[
                L(ResizeShortestEdge)(
                    short_edge_length=[int(0.1 * x * 512) for x in range(5, 21)],
                    max_size=2048,
                    sample_style="choice",
                ),
                L(T.RandomCrop_CategoryAreaConstraint)(
                    crop_type="absolute", crop_size=[512, 512], ignored_category=255
                ),
                L(ColorJitter)(img_format="RGB"),
                L(T.RandomFlip)(),
            ],
            image_format="RGB",
            ignore_label=255,
            size_divisibility=512,
            num_classes=CLASSES,
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    "test": L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="ade20k_sem_seg_val", filter_empty=False),
        mapper=L(EvaluationMapper)(
            augmentations=[
                L(ResizeShortestEdge)(short_edge_length=512, max_size=2048, sample_style="choice")
            ],
            image_format="RGB",
        ),
        num_workers=4,
    ),
    "evaluator": L(CheckedSemSegEvaluator)(dataset_name="ade20k_sem_seg_val"),
}

dataloader = DictConfig(LOADERS, flags={"allow_objects": True})

train = OmegaConf.create(
    {
        "output_dir": "output/lazy_semantic",
        "init_checkpoint": "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
        "max_iter": ITERATIONS,
        "amp": {"enabled": False},
        "ddp": {"broadcast_buffers": False, "find_unused_parameters": False},
        "checkpointer": {"period": 5000, "max_to_keep": 2},
        "eval_period": 5000,
        "log_period": 20,
        "device": "cuda",
    }
)
