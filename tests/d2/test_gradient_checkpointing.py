"""Gradient checkpointing of ResNets: the same numbers, under the same names, in less memory."""

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from benchmarks.measure import peak_mib
from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from mask_former.d2.errors import InputError

NAMES = ["build_resnet_backbone", "build_resnet_deeplab_backbone", "build_tiny_resnet_backbone"]


def config(name: str, norm: str) -> CfgNode:
    opts = {
        "MODEL.DEVICE": "cpu",
        "MODEL.META_ARCHITECTURE": "MaskFormer",
        "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res5"],
        "MODEL.BACKBONE.NAME": name,
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res5"],
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
        "MODEL.MASK_FORMER.DEC_LAYERS": 1,
    }
    return load_config(opts=[part for option in opts.items() for part in option])


def both(name: str, norm: str) -> tuple[nn.Module, nn.Module]:
    """A backbone in training as it is, and its copy with checkpointing."""
    cfg = config(name, norm)
    plain = build_model(cfg).backbone.train()
    cfg.MODEL.RESNETS.USE_CHECKPOINT = True
    lean = build_model(cfg).backbone.train()
    lean.load_state_dict(plain.state_dict())
    return plain, lean


def run(backbone: nn.Module, images: torch.Tensor) -> None:
    features = backbone(images)
    sum(feature.square().mean() for feature in features.values()).backward()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "naiveSyncBN"])
def test_same_numbers_under_the_same_names(name, norm):
    plain, lean = both(name, norm)
    assert list(lean.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 32, 64)
    for _ in range(2):
        run(plain, images)
        run(lean, images)
    for ours, theirs in zip(lean.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    # Running statistics, which a second pass would have moved on, and the count of batches.
    for ours, theirs in zip(lean.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    if norm != "FrozenBN":
        assert lean.stem.conv1.norm.num_batches_tracked == 2
        assert lean.res5[0].conv1.norm.num_batches_tracked == 2
        assert lean.res5[0].conv1.norm.momentum == 0.1


def test_same_features_in_evaluation():
    plain, lean = (backbone.eval() for backbone in both(NAMES[0], "BN"))
    images = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(lean(images).values(), plain(images).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_it_takes_less_memory():
    plain, lean = both(NAMES[0], "FrozenBN")
    images = torch.randn(1, 3, 256, 256)
    for backbone in (plain, lean):
        run(backbone, images)  # so that gradients of the weights are there before and after
    assert peak_mib(lambda: run(lean, images)) < 0.8 * peak_mib(lambda: run(plain, images))


def test_other_backbones_are_refused():
    cfg = config("D2SwinTransformer", "BN")
    cfg.MODEL.RESNETS.USE_CHECKPOINT = True
    with pytest.raises(InputError, match=r"gives a D2SwinTransformer.*MODEL\.SWIN\.USE_CHECKPOINT"):
        build_model(cfg)
