"""Building models: components by name, what reaches them, and published sizes."""

from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn

from mask_former.d2.build.backbone import D2SwinTransformer
from mask_former.d2.build.model import build_criterion, build_model
from mask_former.d2.config import load_config
from mask_former.d2.errors import InputError
from mask_former.modeling.pixel_decoder import (
    PerPixelHeadAsPixelDecoder,
    TransformerEncoderPixelDecoder,
)
from tests.d2.tiny_models import (
    BASELINE,
    ENCODER,
    HEAD,
    MASK_FORMER,
    PLUS,
    SWIN,
    TO_ENCODER,
    WITH_ENCODER,
    image,
    make_cfg,
)

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "options",
    [
        {},
        ENCODER,
        WITH_ENCODER,
        {f"{MASK_FORMER}.PRE_NORM": True, f"{MASK_FORMER}.ENC_LAYERS": 1, **ENCODER},
        {f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res3"},
        {f"{MASK_FORMER}.MATCHER": "fixed", f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 3},
        {f"{HEAD}.NORM": ""},
        {f"{HEAD}.IN_FEATURES": ["res5", "res3"]},
        SWIN,
        {**SWIN, "MODEL.SWIN.APE": True, "MODEL.SWIN.USE_CHECKPOINT": True},
        BASELINE,
        PLUS,
        {**PLUS, **WITH_ENCODER},
        {**PLUS, **SWIN},
        # Values that nothing reads contradict nothing.
        {f"{HEAD}.TRANSFORMER_ENC_LAYERS": 6},
        {**BASELINE, f"{MASK_FORMER}.HIDDEN_DIM": 7, **TO_ENCODER},
        {f"{HEAD}.CONVS_DIM": 32, f"{MASK_FORMER}.NHEADS": 1},
    ],
)
def test_it_builds_and_predicts(options):
    model = build_model(make_cfg(options)).eval()
    with torch.no_grad():
        (result,) = model([image(64, 96)])
    assert result["sem_seg"].shape == (3, 64, 96)


def test_a_head_of_another_project_may_not_know_of_padding():
    @SEM_SEG_HEADS_REGISTRY.register()
    def test_build_other_head(cfg, input_shape):
        return nn.Identity()

    options = {f"{HEAD}.NAME": "test_build_other_head"}
    assert not build_model(make_cfg(options)).valid_mask
    with pytest.raises(InputError, match=r"VALID_MASK is True.*test_build_other_head"):
        build_model(make_cfg({**options, f"{MASK_FORMER}.VALID_MASK": True}))
    assert build_model(make_cfg({f"{MASK_FORMER}.VALID_MASK": True})).valid_mask


def test_arguments_reach_the_criterion():
    options = {f"{MASK_FORMER}.{k}_WEIGHT": v for k, v in (("MASK", 3.0), ("DICE", 4.0))}
    options[f"{MASK_FORMER}.NO_OBJECT_WEIGHT"] = 0.25
    criterion = build_criterion(make_cfg(options))
    assert criterion.weights == (1.0, 3.0, 4.0)
    assert criterion.matcher.keywords["weights"] == criterion.weights
    assert criterion.empty_weight.tolist() == [1, 1, 1, 0.25]
    assert criterion.points is None


def test_point_options_reach_the_criterion():
    names = ("TRAIN_NUM_POINTS", "OVERSAMPLE_RATIO", "IMPORTANCE_SAMPLE_RATIO")
    options = dict(zip((f"{MASK_FORMER}.{name}" for name in names), (50, 2.0, 0.5), strict=True))
    assert build_criterion(make_cfg(options)).points == (50, 2.0, 0.5)


def test_arguments_reach_the_encoder():
    options = {**ENCODER, f"{MASK_FORMER}.PRE_NORM": True, f"{MASK_FORMER}.NHEADS": 4}
    decoder = build_model(make_cfg(options)).sem_seg_head.pixel_decoder
    assert isinstance(decoder, TransformerEncoderPixelDecoder)
    (layer,) = decoder.transformer["encoder"].layers
    assert layer.pre_norm
    assert layer.self_attn.num_heads == 4
    assert layer.linear1.out_features == 32
    assert layer.dropout.p == 0.1


def test_swin_as_detectron2_knows_backbones():
    options = {**SWIN, "MODEL.SWIN.OUT_FEATURES": ["res3", "res5"]}
    options[f"{HEAD}.IN_FEATURES"] = ["res3", "res5"]
    backbone = build_model(make_cfg(options)).backbone
    assert isinstance(backbone, D2SwinTransformer)
    assert backbone.size_divisibility == 32
    shapes = {k: (v.channels, v.stride) for k, v in backbone.output_shape().items()}
    assert shapes == {"res3": (16, 8), "res5": (64, 32)}
    features = backbone(torch.randn(1, 3, 64, 96))
    assert {k: tuple(v.shape[1:]) for k, v in features.items()} == {
        "res3": (16, 8, 12),
        "res5": (64, 2, 3),
    }


def test_the_tiny_resnet_has_a_feature_before_its_pooling():
    """The rest of the network is the same, to the bit."""
    names = ["res2", "res3", "res4", "res5"]
    fine = build_model(
        make_cfg(
            {
                "MODEL.RESNETS.OUT_FEATURES": ["stem", *names],
                f"{HEAD}.IN_FEATURES": ["stem", *names],
            }
        )
    ).eval()
    coarse = build_model(make_cfg({})).backbone.eval()
    coarse.load_state_dict(fine.backbone.state_dict())
    shapes = {name: shape.stride for name, shape in fine.backbone.output_shape().items()}
    assert shapes == {"stem": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
    x = torch.randn(1, 3, 64, 96)
    features, expected = fine.backbone(x), coarse(x)
    assert features["stem"].shape[2:] == (32, 48)
    assert all(torch.equal(features[name], expected[name]) for name in names)
    assert fine.network(x).mask_logits().shape[2:] == (32, 48)


def test_the_size_divisibility_of_the_backbone():
    for backbone, divisor in ((SWIN, 32), ({}, 0)):
        for value, expected in ((-1, divisor), (0, 0), (16, 16)):
            cfg = make_cfg({**backbone, f"{MASK_FORMER}.SIZE_DIVISIBILITY": value})
            assert build_model(cfg).size_divisibility == expected


def test_thing_ids_are_those_of_the_first_training_set():
    name = "test_build_things"
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {7: 2, 9: 0}
    try:
        model = build_model(
            make_cfg(
                {
                    f"{MASK_FORMER}.TEST.PANOPTIC_ON": True,
                    "DATASETS.TRAIN": (name, "ade20k_sem_seg_train"),
                }
            )
        )
    finally:
        MetadataCatalog.pop(name)
    assert set(model.inference.thing_ids) == {0, 2}


def test_a_head_of_detectron2_as_pixel_decoder():
    """Semantic FPN, which gives MASK_DIM channels instead of class scores, and learns."""
    model = build_model(make_cfg({f"{HEAD}.PIXEL_DECODER_NAME": "SemSegFPNHead"}))
    decoder = model.sem_seg_head.pixel_decoder
    assert isinstance(decoder, PerPixelHeadAsPixelDecoder)
    assert isinstance(decoder.head, SemSegFPNHead)
    features = model.backbone(torch.randn(2, 3, 64, 96))
    pixel_embed = decoder.forward_features(features).pixel_embed
    assert pixel_embed.shape == (2, 16, 16, 24)
    assert model.sem_seg_head(features).class_logits.shape == (2, 2, 5, 4)
    pixel_embed.sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        ("ade20k-150/per_pixel_baseline_R50_bs16_160k", 31.033942),
        ("ade20k-150/per_pixel_baseline_plus_R50_bs16_160k", 41.228736),
        ("ade20k-150/maskformer_R101c_bs16_160k", 60.318039),
        ("ade20k-150/swin/maskformer_swin_tiny_bs16_160k", 41.757009),
        ("coco-panoptic/swin/maskformer_panoptic_swin_large_IN21k_384_bs64_554k", 211.571258),
        ("coco-panoptic/maskformer_panoptic_R50_bs64_554k", 45.012038),
        ("ade20k-150-panoptic/maskformer_panoptic_R101_bs16_720k", 63.956311),
        ("mapillary-vistas-65/maskformer_R50_bs16_300k", 41.232898),
    ],
)
def test_parameters_of_published_models(config, millions):
    """Table 1 and others name them in millions; on the meta device nothing is allocated."""
    cfg = load_config(str(ROOT / "configs" / f"{config}.yaml"), device="meta")
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == round(millions * 1e6)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_freeze_at_acts_on_swin(freeze_at):
    """Nothing; the patch embedding; a stage as well; all."""
    options = {**SWIN, "MODEL.SWIN.APE": True, "MODEL.BACKBONE.FREEZE_AT": freeze_at}
    backbone = build_model(make_cfg(options)).backbone
    assert backbone.train() is backbone
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    parts = ["patch_embed.", "absolute_pos_embed"] if freeze_at else []
    parts += [f"layers.{i}." for i in range(freeze_at - 1)]
    assert frozen == {n for n, _ in backbone.named_parameters() if n.startswith(tuple(parts))}
    assert [layer.training for layer in backbone.layers] == [i >= freeze_at - 1 for i in range(4)]
    features = backbone(torch.randn(1, 3, 64, 64))
    sum(f.sum() for f in features.values()).backward()
    assert all((p.grad is None) != p.requires_grad for p in backbone.parameters())


def test_more_than_all_of_swin_cannot_be_frozen():
    three = {
        "MODEL.SWIN.DEPTHS": [1, 1, 1],
        "MODEL.SWIN.NUM_HEADS": [1, 2, 4],
        "MODEL.SWIN.OUT_FEATURES": ["res2"],
    }
    with pytest.raises(InputError, match="FREEZE_AT: it must be 0 to 4, got 5"):
        build_model(make_cfg({**SWIN, **three, "MODEL.BACKBONE.FREEZE_AT": 5}))
