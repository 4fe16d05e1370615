"""Weights of transformers' MaskFormer here and ours there: equal outputs from random weights."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from tests.d2.tiny_models import MASK_FORMER, SWIN, WITH_ENCODER, make_cfg

transformers = pytest.importorskip("transformers", minversion="5.23")
RESNET = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_TYPE": "basic",
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 1, 1],
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
}
BASIC = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
GROUP_NORM = {
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 128,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 32,
}
KINDS = {"resnet": RESNET, "swin": {**SWIN, "MODEL.SWIN.DEPTHS": [1, 2, 1, 1]}}
kinds = pytest.mark.parametrize("kind", KINDS)


def randomize(model):
    """Also what starts as ones and zeros, so that no two tensors may be exchanged."""
    g = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "empty_weight" not in name:
            noise = torch.rand(tensor.shape, generator=g)
            tensor.copy_(0.5 + noise if tensor.dim() == 1 else 0.3 * (noise - 0.5))
    return model.eval()


def their_model(kind):
    t = transformers
    stages = [f"stage{i}" for i in range(1, 5)]
    if kind == "swin":
        backbone = t.SwinConfig(
            embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 4, 8], out_features=stages
        )
    else:
        sizes = [16, 32, 64, 128]
        backbone = t.ResNetConfig(embedding_size=8, hidden_sizes=sizes, out_features=stages)
    decoder = t.DetrConfig(
        encoder_layers=0,
        decoder_layers=2,
        d_model=32,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        num_queries=5,
    )
    config = t.MaskFormerConfig(
        backbone_config=backbone,
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=16,
        num_labels=3,
    )
    return randomize(t.MaskFormerForInstanceSegmentation(config))


@torch.no_grad()
def assert_equal_outputs(ours, theirs):
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    found, expected = ours.network(images), theirs(pixel_values=images)
    scale = expected.masks_queries_logits.abs().max()
    torch.testing.assert_close(
        found.class_logits[-1], expected.class_queries_logits, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        found.mask_logits() / scale, expected.masks_queries_logits / scale, rtol=1e-5, atol=1e-5
    )


@kinds
def test_theirs_here(tool: ModuleType, kind: str, tmp_path: Path):
    theirs = their_model(kind)
    theirs.save_pretrained(tmp_path / "theirs")
    tool.main(["from", str(tmp_path / "theirs"), str(tmp_path / "ours")])
    # Not the predictor, which joins norms with convolutions, at the cost of some digits.
    ours = build_model(load_config(str(tmp_path / "ours" / "config.yaml"), device="cpu")).eval()
    weights = torch.load(tmp_path / "ours" / "model.pth")["model"]
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["criterion.empty_weight"], [])
    assert_equal_outputs(ours, theirs)


@kinds
def test_ours_there(tool: ModuleType, kind: str, tmp_path: Path):
    cfg = make_cfg({**KINDS[kind], f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res5"})
    ours = randomize(build_model(cfg))
    torch.save({"model": ours.state_dict()}, tmp_path / "ours.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    folder = tmp_path / "theirs"
    tool.main(
        [
            "to",
            str(tmp_path / "ours.pth"),
            str(folder),
            "--config-file",
            str(tmp_path / "config.yaml"),
        ]
    )
    theirs, report = transformers.MaskFormerForInstanceSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert_equal_outputs(ours, theirs.eval())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (WITH_ENCODER, r"PIXEL_DECODER_NAME is 'TransformerEncoderPixelDecoder'"),
        ({"MODEL.RESNETS.STEM_TYPE": "deeplab"}, r"MODEL\.RESNETS\.STEM_TYPE is 'deeplab'"),
        (
            {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64},
            r"MODEL\.RESNETS\.DEPTH is 18",
        ),
        ({f"{MASK_FORMER}.PRE_NORM": True}, r"MASK_FORMER\.PRE_NORM is True"),
        ({f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res4"}, r"IN_FEATURE is 'res4'"),
        (
            GROUP_NORM,
            r"RESNETS\.NORM is 'GN'; .* counterpart of 'BN' or 'SyncBN'",
        ),
        ({**KINDS["swin"], "MODEL.SWIN.QK_SCALE": 0.5}, r"SWIN\.QK_SCALE is 0\.5"),
    ],
)
def test_what_transformers_lacks_is_refused_by_name(tool: ModuleType, options, named: str):
    with pytest.raises(tool.InputError, match=named):
        tool.their_config(make_cfg({**RESNET, **options}))


@kinds
def test_a_norm_or_a_scale_that_both_have_is_not(tool: ModuleType, kind: str):
    same = {"MODEL.RESNETS.NORM": "SyncBN", "MODEL.SWIN.QK_SCALE": 0}
    res5 = {f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res5"}
    theirs = tool.their_config(make_cfg({**KINDS[kind], **same, **res5}))
    assert theirs["decoder_config"]["num_queries"] == 5


def test_two_classes_are_theirs_by_default(tool: ModuleType):
    theirs = transformers.MaskFormerConfig(num_labels=2).to_diff_dict()
    assert "id2label" not in theirs
    assert tool.our_config(theirs)["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == 2


@pytest.mark.parametrize(
    ("section", "key", "known"),
    [
        ("decoder_config", "activation_function", "relu"),
        ("backbone_config", "hidden_act", "gelu"),
    ],
)
def test_an_activation_that_we_lack_is_refused_by_name(tool: ModuleType, section, key, known):
    theirs = transformers.MaskFormerConfig(num_labels=3).to_diff_dict()
    theirs[section] = {**theirs[section], key: "silu"}
    with pytest.raises(tool.InputError, match=f"{section} has {key} 'silu'; '{known}' is known"):
        tool.our_config(theirs)


def test_a_folder_without_weights_is_refused(tool: ModuleType, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"has no config\.json, or neither of"):
        tool.main(["from", str(tmp_path), str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("config", "weights", "said"),
    [
        ("{}", b"", r"cannot read the weights .*model\.safetensors"),
        ("{", None, r"configuration .*config\.json cannot be read"),
        ("[]", None, r"config\.json has no backbone_config with a model_type"),
        ('{"backbone_config": {"model_type": "swin"}}', None, "has no decoder_config with a model"),
        (
            '{"backbone_config": {"model_type": "resnet"}, "decoder_config": {"model_type": "a"}}',
            None,
            "backbone_config is a resnet without depths, embedding_size, hidden_sizes",
        ),
    ],
)
def test_a_broken_folder_is_refused(tool: ModuleType, tmp_path: Path, config, weights, said):
    (tmp_path / "config.json").write_text(config)
    file = tmp_path / "model.safetensors"
    if weights is None:
        pytest.importorskip("safetensors.torch").save_file({"a": torch.zeros(1)}, file)
    else:
        file.write_bytes(weights)
    with pytest.raises(SystemExit, match=said):
        tool.main(["from", str(tmp_path), str(tmp_path / "out")])
