"""Backbones of torchvision and timm: features, weights from a file, frozen parts, training."""

import logging
import sys

import pytest
import torch
import torchvision

from mask_former.d2.build.image_models import ImageModelBackbone, backbone_and_weights
from mask_former.d2.build.model import build_model
from mask_former.d2.errors import InputError
from tests.d2.tiny_models import make_cfg, sample

TORCHVISION = {"MODEL.BACKBONE.NAME": "build_torchvision_backbone", "MODEL.BACKBONE.FREEZE_AT": 0}
TIMM = {**TORCHVISION, "MODEL.BACKBONE.NAME": "build_timm_backbone"}
NAME, WEIGHTS, FEATURES = (f"MODEL.IMAGE_MODEL.{x}" for x in ("NAME", "WEIGHTS", "OUT_FEATURES"))
MOBILENET = {**TORCHVISION, NAME: "mobilenet_v2"}


def build(options) -> ImageModelBackbone:
    return build_model(make_cfg(options)).backbone


def shapes(backbone) -> dict[str, tuple[int, int]]:
    return {name: (x.channels, x.stride) for name, x in backbone.output_shape().items()}


def check_features(backbone) -> None:
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, 96, 64))
    assert {name: tuple(x.shape[1:]) for name, x in features.items()} == {
        name: (channels, 96 // stride, 64 // stride)
        for name, (channels, stride) in shapes(backbone).items()
    }


@pytest.mark.parametrize(
    ("name", "channels"),
    [("mobilenet_v2", (24, 32, 96, 1280)), ("resnet18", (64, 128, 256, 512))],
)
def test_features_of_torchvision(name, channels):
    backbone = build({**TORCHVISION, NAME: name})
    strides = zip(channels, (4, 8, 16, 32), strict=True)
    assert shapes(backbone) == dict(zip(("res2", "res3", "res4", "res5"), strides, strict=True))
    assert backbone.size_divisibility == 32
    check_features(backbone)


def test_features_are_the_blocks_outputs():
    """Of the same weights, by running torchvision's own blocks."""
    backbone = build(MOBILENET).eval()
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    model.load_state_dict(backbone.network.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = backbone(x)
        for i, block in enumerate(model.features):
            x = block(x)
            name = {3: "res2", 6: "res3", 13: "res4", 18: "res5"}.get(i)
            if name is not None:
                torch.testing.assert_close(found[name], x)


def learn(options) -> None:
    """Two steps, after which the loss of the same images has changed and all is finite."""
    model = build_model(make_cfg(options)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    losses = []
    for _ in range(2):
        loss = sum(model([sample(64, 96, [0, 2]), sample(64, 64, [1])]).values())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] != losses[1]


def test_torchvisions_mobilenet_trains():
    learn(MOBILENET)


@pytest.fixture
def weights(tmp_path) -> str:
    torch.manual_seed(1)
    path = tmp_path / "mobilenet_v2.pth"
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), path)
    return str(path)


def test_weights_from_a_file(weights, caplog):
    caplog.set_level(logging.INFO, logger="mask_former")
    backbone = build({**MOBILENET, WEIGHTS: weights})
    expected = torch.load(weights)
    for name, value in backbone.network.state_dict().items():
        assert torch.equal(value, expected[name])
    assert f"{weights}: all 260 weights of the backbone; left over: classifier_1_" in caplog.text


def test_a_checkpoint_of_the_whole_model_needs_no_file(tmp_path):
    build({**MOBILENET, WEIGHTS: str(tmp_path / "gone.pth"), "MODEL.WEIGHTS": "model_final.pth"})


def test_weights_of_another_model_are_refused(weights, tmp_path):
    with pytest.raises(InputError, match=r"is not of MODEL.IMAGE_MODEL.NAME 'resnet18': 100 of "):
        build({**TORCHVISION, NAME: "resnet18", WEIGHTS: weights})
    state = torch.load(weights)
    state["features.0.0.weight"] = torch.zeros(32, 1, 3, 3)
    torch.save(state, weights)
    message = r"1 of the backbone's 260 .*is \[32, 3, 3, 3\], in the file \[32, 1, 3, 3\]"
    with pytest.raises(InputError, match=message):
        build({**MOBILENET, WEIGHTS: weights})
    with pytest.raises(InputError, match=r"cannot read .*gone\.pth.*mend MODEL\.IMAGE_MODEL\.WEI"):
        build({**MOBILENET, WEIGHTS: str(tmp_path / "gone.pth")})


def test_freeze_at_fixes_what_a_feature_is_computed_from():
    backbone = build({**MOBILENET, "MODEL.BACKBONE.FREEZE_AT": 3}).train()
    first = tuple(f"network.features.{i}." for i in range(7))
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in backbone.named_parameters() if name.startswith(first)}
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running" in k}
    backbone(torch.rand(2, 3, 64, 64))
    kept = {k for k, v in backbone.state_dict().items() if k in before and v.equal(before[k])}
    assert kept == {k for k in before if k.startswith(first)}


REFUSED = {
    "name": ({**TORCHVISION, NAME: "mobilenetv2"}, "no model 'mobilenetv2'; did you mean mobile"),
    "no name": (TORCHVISION, r"no model ''; torchvision\.list_models\(\) tells the names"),
    "stride": (
        {**TORCHVISION, NAME: "vit_b_16"},
        "does not take images of any size .Wrong image hei",
    ),
    "feature": ({**MOBILENET, FEATURES: ["res6"]}, "asks for res6; .* strides 2, 4, 8, 16, 32 "),
    "frozen": (
        {**MOBILENET, FEATURES: ["res3", "res5"], "MODEL.BACKBONE.FREEZE_AT": 2},
        "FREEZE_AT is 2, but MODEL.IMAGE_MODEL.OUT_FEATURES has no res2; give 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_told(case):
    options, told = REFUSED[case]
    with pytest.raises(InputError, match=told):
        build(options)


def test_a_missing_timm_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="build_timm_backbone needs timm; install it with `pip"):
        build({**TIMM, NAME: "resnet18"})


def test_features_of_timm():
    pytest.importorskip("timm")
    backbone = build({**TIMM, NAME: "mobilenetv3_small_050"})
    assert [stride for _, stride in shapes(backbone).values()] == [4, 8, 16, 32]
    check_features(backbone)


def test_timm_trains_with_weights_of_a_file(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    path = str(tmp_path / "model.pth")
    model = timm.create_model("mobilenetv3_small_050")
    torch.save(model.state_dict(), path)
    options = {**TIMM, NAME: "mobilenetv3_small_050", WEIGHTS: path}
    backbone = build(options).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        # Its own way to a feature, of the whole model.
        expected = model.eval().forward_intermediates(images, intermediates_only=True)
        torch.testing.assert_close(backbone(images)["res4"], expected[3])
    learn(options)


@pytest.mark.parametrize(
    ("name", "told"),
    [("resnet_18", "timm has no model 'resnet_18'"), ("vit_tiny_patch16_224", "strides 16, 16")],
)
def test_what_timm_has_not_is_told(name, told):
    pytest.importorskip("timm")
    with pytest.raises(InputError, match=told):
        build({**TIMM, NAME: name})


@pytest.mark.parametrize(
    ("options", "backbone", "weights"),
    [
        ({}, "tiny_resnet", ""),
        ({"MODEL.WEIGHTS": "a.pth", WEIGHTS: "b.pth"}, "tiny_resnet", "a.pth"),
        ({**TORCHVISION, NAME: "mobilenet_v2"}, "mobilenet_v2 of torchvision", ""),
        ({**TIMM, NAME: "x", WEIGHTS: "b.pth"}, "x of timm", "b.pth"),
        ({**TIMM, NAME: "x", WEIGHTS: "b.pth", "MODEL.WEIGHTS": "a"}, "x of timm", "a"),
        ({WEIGHTS: "b.pth"}, "tiny_resnet", ""),
        (
            {"MODEL.BACKBONE.NAME": "build_resnet_deeplab_backbone", "MODEL.RESNETS.DEPTH": 101},
            "resnet_deeplab, depth 101",
            "",
        ),
    ],
)
def test_what_people_call_it(options, backbone, weights):
    assert backbone_and_weights(make_cfg(options).MODEL) == (backbone, weights)
