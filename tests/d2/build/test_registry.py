"""Components of other projects by name, and another package that has taken our names."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from mask_former.d2.build.model import build_model
from mask_former.d2.build.registry import (
    CRITERION_REGISTRY,
    MASK_DECODER_REGISTRY,
    MATCHER_REGISTRY,
)
from mask_former.functional.matching import fixed_matching
from mask_former.structures import MaskPrediction
from tests.d2.tiny_models import MASK_FORMER, image, make_cfg

ROOT = Path(__file__).parents[3]
BESIDE_ANOTHER_PACKAGE = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

theirs = {}
def take(registry, name):
    def build(*args):
        raise AssertionError("theirs was built")
    registry._do_register(name, build)
    theirs[name] = build

take(META_ARCH_REGISTRY, "MaskFormer")
take(SEM_SEG_HEADS_REGISTRY, "MaskFormerHead")
take(SEM_SEG_HEADS_REGISTRY, "PerPixelBaselineHead")
take(SEM_SEG_HEADS_REGISTRY, "BasePixelDecoder")
take(BACKBONE_REGISTRY, "D2SwinTransformer")

import mask_former.d2
from mask_former.d2.build.model import build_model
from mask_former.d2.config import get_mask_former_cfg

assert META_ARCH_REGISTRY.get("MaskFormer") is theirs["MaskFormer"]
assert BACKBONE_REGISTRY.get("D2SwinTransformer") is theirs["D2SwinTransformer"]
cfg = get_mask_former_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.BACKBONE.NAME = "D2SwinTransformer"
cfg.MODEL.SWIN.DEPTHS = [1, 1, 1, 1]
cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4", "res5"]
for meta, head in (
    ("MaskFormer", "MaskFormerHead"), ("SemanticSegmentor", "PerPixelBaselineHead")
):
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NAME = meta, head
    print(type(build_model(cfg).sem_seg_head).__module__)
"""


def test_beside_another_package_with_the_same_names():
    """Their registrations stay, one line says so, and our builders use our components."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BESIDE_ANOTHER_PACKAGE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told, *modules = run.stdout.splitlines()
    assert told.startswith("Already registered by another package, whose registrations stay: ")
    for name in ("MaskFormer (META_ARCH)", "D2SwinTransformer (BACKBONE)", "(SEM_SEG_HEADS)"):
        assert name in told
    assert modules == ["mask_former.modeling.head", "mask_former.modeling.per_pixel"]


def test_components_of_other_projects_enter_by_name():
    """A mask decoder, a matcher and a criterion, with one decorator each."""

    class OneQuery(nn.Module):
        def forward(self, feature, pixel_embed):
            batch, dim = pixel_embed.shape[:2]
            embed = pixel_embed.new_ones(1, batch, 1, dim)
            return MaskPrediction(pixel_embed.new_zeros(1, batch, 1, 4), embed, pixel_embed)

    @MASK_DECODER_REGISTRY.register()
    def test_build_one_query(cfg, in_channels):
        assert in_channels == 64
        return OneQuery()

    @MATCHER_REGISTRY.register()
    def test_build_matcher(cfg):
        return fixed_matching

    @CRITERION_REGISTRY.register()
    def test_build_criterion(cfg, matcher):
        assert matcher is fixed_matching
        return nn.Identity()

    names = {"MASK_DECODER": "one_query", "MATCHER": "matcher", "CRITERION": "criterion"}
    cfg = make_cfg({f"{MASK_FORMER}.{key}": f"test_build_{v}" for key, v in names.items()})
    model = build_model(cfg).eval()
    assert isinstance(model.criterion, nn.Identity)
    with torch.no_grad():
        assert model([image(64, 96)])[0]["sem_seg"].shape == (3, 64, 96)
