"""A training step of a whole model: forward, criterion, backward, optimizer.

``training/ade20k`` takes two images of 512x512, ``training/coco`` one of 640x640. The reference is
the same model with the criterion of reference.py; "scripts" is ours with the allocator as our
scripts set it. The rate of learning is zero, which keeps the weights as they are.
"""

from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from benchmarks import reference
from benchmarks.criterion import Shape, random_targets
from benchmarks.measure import ROOT, Work, device
from mask_former.d2.allocation import keep_freed_memory
from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from mask_former.d2.solver import build_optimizer
from mask_former.structures import LossWeights

SIDES = ("reference", "ours", "scripts")
CONFIGS = {
    "ade20k": "ade20k-150/maskformer_R50_bs16_160k.yaml",
    "ade20k-swin": "ade20k-150/swin/maskformer_swin_tiny_bs16_160k.yaml",
    "ade20k-panoptic": "ade20k-150-panoptic/maskformer_panoptic_R50_bs16_720k.yaml",
    "coco": "coco-panoptic/maskformer_panoptic_R50_bs64_554k.yaml",
}
SHAPES = {"ade20k": Shape(2, 512, 512, 10, 150), "coco": Shape(1, 640, 640, 15, 133)}
CASES = tuple(f"training/{name}" for name in SHAPES)


def build(case: str, side: str) -> Work:
    """One side; gives the total loss."""
    if side == "scripts":
        keep_freed_memory()
    name = case.split("/")[1]
    cfg = config(name)
    cfg.SOLVER.BASE_LR = 0.0
    model: Any = build_model(cfg).train()
    if side == "reference":
        options = cfg.MODEL.MASK_FORMER
        weights = LossWeights(mask=options.MASK_WEIGHT, dice=options.DICE_WEIGHT)
        empty_weight, model.criterion = model.criterion.empty_weight, nn.Module()
        model.criterion.forward = partial(
            reference.criterion, weights=weights, empty_weight=empty_weight
        )
    optimizer, inputs = build_optimizer(cfg, model), training_inputs(SHAPES[name])

    def work() -> Tensor:
        total = torch.stack(list(model(inputs).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return total.detach()

    return work


def config(name: str) -> CfgNode:
    """One of ``CONFIGS``, on the device at hand."""
    return load_config(str(ROOT / "configs" / CONFIGS[name]), device=device().type)


def training_inputs(shape: Shape) -> list[dict[str, Any]]:
    """What Detectron2's models take: random images with random segments."""
    size = (shape.height, shape.width)
    inputs = []
    for target in random_targets(shape):
        image = torch.randint(256, (3, *size), dtype=torch.uint8, device=device())
        instances = Instances(size, gt_classes=target.labels, gt_masks=target.masks)
        inputs.append({"image": image, "instances": instances})
    return inputs
