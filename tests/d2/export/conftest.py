"""Tiny models of every kind, whose norms have been joined as for inference."""

import pytest
import torch

from mask_former.d2.build.model import build_model
from mask_former.d2.fuse_norms import optimize_for_inference
from tests.d2.tiny_models import make_cfg


@pytest.fixture
def make():
    def model(options):
        torch.manual_seed(0)
        return optimize_for_inference(build_model(make_cfg(options)))

    return model
