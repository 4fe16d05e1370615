"""Models made faster for evaluation: the same results, without norms."""

import copy
from pathlib import Path

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.utils import prune

from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from mask_former.d2.fuse_norms import optimize_for_inference

CONFIG = Path(__file__).parents[2] / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml"


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
def test_results_stay(norm: str) -> None:
    torch.manual_seed(0)
    model = (
        build_model(load_config(str(CONFIG), ["MODEL.RESNETS.NORM", norm], "cpu")).double().eval()
    )
    for module in model.modules():
        if isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values)
            nn.init.uniform_(module.running_var, 0.5, 2)
    images = [
        {"image": torch.randint(256, (3, 64, 90))},
        {"image": torch.randint(256, (3, 50, 70))},
    ]
    faster = optimize_for_inference(copy.deepcopy(model))
    with torch.no_grad():
        for mine, expected in zip(faster(images), model(images), strict=True):
            torch.testing.assert_close(mine["sem_seg"], expected["sem_seg"])
            assert torch.equal(mine["panoptic_seg"][0], expected["panoptic_seg"][0])
    norms = [type(module).__name__ for module in faster.modules() if "Norm2d" in str(type(module))]
    assert norms == []
    assert not faster.training
    weights = [p for p in faster.backbone.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


class Doubled(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def touch(convolution: Conv2d, kind: str) -> None:
    """What joining would leave out, or what would undo it."""
    if kind == "weight norm":
        torch.nn.utils.weight_norm(convolution)
    elif kind == "pruned":
        prune.l1_unstructured(convolution, "weight", 0.5)
    elif kind == "hook of the norm":
        convolution.norm.register_forward_hook(lambda _, __, output: 2 * output)
    elif kind == "norm of another class":
        convolution.norm.__class__ = Doubled
    elif kind == "statistics of the batch":
        convolution.norm = nn.BatchNorm2d(5, track_running_stats=False)


KINDS = ["weight norm", "pruned", "hook of the norm", "norm of another class"]


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("kind", [*KINDS, "statistics of the batch"])
@torch.no_grad()
def test_what_is_not_plain_is_not_joined(kind: str) -> None:
    convolution = Conv2d(3, 5, 3, bias=False, norm=nn.BatchNorm2d(5))
    nn.init.uniform_(convolution.norm.running_var, 0.5, 2)
    touch(convolution, kind)
    images = torch.randn(2, 3, 8, 8)
    expected = convolution.eval()(images)
    torch.testing.assert_close(optimize_for_inference(nn.Sequential(convolution))(images), expected)
    assert convolution.norm is not None
