"""ResNet of torchvision to Detectron2's names: all of a backbone is found, with its values."""

import pickle
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone
from torch import nn

from mask_former.d2.config import get_mask_former_cfg


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.state_dict()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer1.0.conv3.weight", "res2.0.conv3.weight"),
        ("layer4.2.bn2.bias", "res5.2.conv2.norm.bias"),
        ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
        ("layer3.0.downsample.1.weight", "res4.0.shortcut.norm.weight"),
        ("fc.bias", "stem.fc.bias"),
    ],
)
def test_names(tool: ModuleType, old: str, new: str):
    assert tool.renamed(old) == new


def convert(tool: ModuleType, weights: dict, folder: Path) -> Path:
    torch.save(weights, folder / "in.pth")
    tool.main([str(folder / "in.pth"), str(folder / "out.pkl")])
    return folder / "out.pkl"


def test_file(tool: ModuleType, weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with open(convert(tool, weights, tmp_path), "rb") as file:
        content = pickle.load(file)
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["__author__"] == "torchvision"
    assert content["matching_heuristics"] is True
    assert all(isinstance(value, np.ndarray) for value in content["model"].values())
    assert len(content["model"]) == len(weights)
    shown = capsys.readouterr().out
    assert shown.count(" -> ") == len(weights)
    assert "layer1.0.bn1.weight -> res2.0.conv1.norm.weight\n" in shown
    assert shown.endswith("no classifier: stem.fc.weight, stem.fc.bias\n")


def test_fills_a_backbone_of_detectron2(tool: ModuleType, weights, tmp_path: Path):
    cfg = get_mask_former_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.merge_from_other_cfg(
        type(cfg)(
            {"DEPTH": 18, "STEM_TYPE": "basic", "RES2_OUT_CHANNELS": 64, "STRIDE_IN_1X1": False}
        )
    )
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 1, 1]
    model = nn.ModuleDict({"backbone": build_backbone(cfg)})
    loaded = DetectionCheckpointer(model).load(str(convert(tool, weights, tmp_path)))
    assert loaded["matching_heuristics"] is True
    state = model.state_dict()
    expected = {
        f"backbone.{tool.renamed(name)}": value
        for name, value in weights.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    assert set(state) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def test_what_is_no_resnet_is_refused(tool: ModuleType, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"no weights of a ResNet of torchvision: features\.0"):
        convert(tool, {"features.0": torch.zeros(1)}, tmp_path)
    assert not (tmp_path / "out.pkl").exists()


def test_missing_input_is_named(tool: ModuleType, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"nowhere\.pth"):
        tool.main([str(tmp_path / "nowhere.pth"), str(tmp_path / "out.pkl")])
