"""Building models: components by name, keys that contradict each other, and other packages."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from detectron2.data import MetadataCatalog
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.structures import Instances
from torch import nn

from mask_former.d2.backbone import D2SwinTransformer
from mask_former.d2.build import build_criterion, build_model
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.config_merging import merge_opts, merge_yaml
from mask_former.d2.errors import InputError
from mask_former.d2.heads import build_pixel_decoder
from mask_former.d2.meta_arch import predict
from mask_former.d2.registry import CRITERION_REGISTRY, MASK_DECODER_REGISTRY, MATCHER_REGISTRY
from mask_former.functional.matching import fixed_matching
from mask_former.modeling.pixel_decoder import (
    PerPixelHeadAsPixelDecoder,
    TransformerEncoderPixelDecoder,
)
from mask_former.structures import MaskPrediction, Padding

ROOT = Path(__file__).parents[2]
HEAD, MASK_FORMER = "MODEL.SEM_SEG_HEAD", "MODEL.MASK_FORMER"
SMALL = {
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_tiny_resnet_backbone",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    f"{HEAD}.NAME": "MaskFormerHead",
    f"{HEAD}.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    f"{HEAD}.NUM_CLASSES": 3,
    f"{HEAD}.CONVS_DIM": 32,
    f"{HEAD}.MASK_DIM": 16,
    f"{MASK_FORMER}.HIDDEN_DIM": 32,
    f"{MASK_FORMER}.DIM_FEEDFORWARD": 32,
    f"{MASK_FORMER}.DEC_LAYERS": 2,
    f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 5,
}
BASELINE = {"MODEL.META_ARCHITECTURE": "SemanticSegmentor", f"{HEAD}.NAME": "PerPixelBaselineHead"}
PLUS = {
    **BASELINE,
    f"{HEAD}.NAME": "PerPixelBaselinePlusHead",
    f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 3,
}
ENCODER = {
    f"{HEAD}.PIXEL_DECODER_NAME": "TransformerEncoderPixelDecoder",
    f"{HEAD}.TRANSFORMER_ENC_LAYERS": 1,
}
TO_ENCODER = {f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "transformer_encoder"}
SWIN = {
    "MODEL.BACKBONE.NAME": "D2SwinTransformer",
    "MODEL.SWIN.EMBED_DIM": 8,
    "MODEL.SWIN.DEPTHS": [1, 1, 1, 1],
    "MODEL.SWIN.NUM_HEADS": [1, 2, 4, 8],
}


def make_cfg(options):
    cfg = get_mask_former_cfg()
    merge_opts(cfg, [part for option in (SMALL | options).items() for part in option])
    return cfg


def image(height=64, width=96):
    return {"image": torch.randint(0, 256, (3, height, width))}


@pytest.mark.parametrize(
    "options",
    [
        {},
        ENCODER,
        {**ENCODER, **TO_ENCODER},
        {f"{MASK_FORMER}.PRE_NORM": True, f"{MASK_FORMER}.ENC_LAYERS": 1, **ENCODER},
        {f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res3"},
        {f"{MASK_FORMER}.MATCHER": "fixed", f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 3},
        {f"{HEAD}.NORM": ""},
        {f"{HEAD}.IN_FEATURES": ["res5", "res3"]},
        SWIN,
        {**SWIN, "MODEL.SWIN.APE": True, "MODEL.SWIN.USE_CHECKPOINT": True},
        BASELINE,
        PLUS,
        {**PLUS, **ENCODER, **TO_ENCODER},
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
        (result,) = model([image()])
    assert result["sem_seg"].shape == (3, 64, 96)


REFUSED = {
    "meta": ({"MODEL.META_ARCHITECTURE": "MaskFomer"}, ["META_ARCHITECTURE", "mean MaskFormer"]),
    "backbone": ({"MODEL.BACKBONE.NAME": "D2Swin"}, ["BACKBONE.NAME", "D2SwinTransformer"]),
    "head": ({f"{HEAD}.NAME": "MaskformerHead"}, [f"{HEAD}.NAME", "mean MaskFormerHead"]),
    "decoder": (
        {f"{HEAD}.PIXEL_DECODER_NAME": "BasePixelDecodr"},
        ["PIXEL_DECODER_NAME", "mean BasePixelDecoder"],
    ),
    "mask decoder": (
        {f"{MASK_FORMER}.MASK_DECODER": "TransformerPredicter"},
        ["MASK_FORMER.MASK_DECODER", "mean TransformerPredictor"],
    ),
    "matcher": (
        {f"{MASK_FORMER}.MATCHER": "hungarian"},
        [".MATCHER", "known are bipartite, fixed"],
    ),
    "criterion": ({f"{MASK_FORMER}.CRITERION": "Criterion"}, [".CRITERION", "mean SetCriterion"]),
    "points": (
        {f"{MASK_FORMER}.TRAIN_NUM_POINTS": -1},
        [f"{MASK_FORMER}.TRAIN_NUM_POINTS is -1", "at least 0"],
    ),
    "oversampling": (
        {f"{MASK_FORMER}.OVERSAMPLE_RATIO": 0.5},
        [f"{MASK_FORMER}.OVERSAMPLE_RATIO is 0.5", "at least 1"],
    ),
    "negative importance": (
        {f"{MASK_FORMER}.IMPORTANCE_SAMPLE_RATIO": -0.1},
        [f"{MASK_FORMER}.IMPORTANCE_SAMPLE_RATIO is -0.1", "at least 0"],
    ),
    "importance": (
        {f"{MASK_FORMER}.IMPORTANCE_SAMPLE_RATIO": 1.5},
        [f"{MASK_FORMER}.IMPORTANCE_SAMPLE_RATIO is 1.5", "at most 1"],
    ),
    "no encoder": (TO_ENCODER, ["TRANSFORMER_IN_FEATURE", "'BasePixelDecoder'"]),
    "no encoder in a head": (
        {**TO_ENCODER, f"{HEAD}.PIXEL_DECODER_NAME": "SemSegFPNHead"},
        ["TRANSFORMER_IN_FEATURE", "'SemSegFPNHead'"],
    ),
    "no such feature": (
        {f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res6"},
        ["TRANSFORMER_IN_FEATURE is 'res6'", "res2, res3, res4, res5"],
    ),
    "fixed": (
        {f"{MASK_FORMER}.MATCHER": "fixed"},
        [".MATCHER", "NUM_OBJECT_QUERIES is 5", "NUM_CLASSES 3"],
    ),
    "plus": (
        {**PLUS, f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 100},
        ["NUM_OBJECT_QUERIES is 100", "NUM_CLASSES 3"],
    ),
    "plus with another decoder": (
        {**PLUS, f"{MASK_FORMER}.MASK_DECODER": "Mine"},
        ["MASK_DECODER is 'Mine'"],
    ),
    "heads": ({f"{MASK_FORMER}.NHEADS": 5}, ["HIDDEN_DIM is 32", "NHEADS 5"]),
    "odd width": (
        {f"{MASK_FORMER}.HIDDEN_DIM": 33, f"{MASK_FORMER}.NHEADS": 3},
        ["HIDDEN_DIM is 33", "even"],
    ),
    "width of the encoder": (
        {**ENCODER, f"{HEAD}.CONVS_DIM": 96, f"{MASK_FORMER}.NHEADS": 32, f"{HEAD}.NORM": "BN"}
        | {f"{HEAD}.CONVS_DIM": 40},
        ["CONVS_DIM is 40", "NHEADS 32"],
    ),
    "no layers": ({f"{MASK_FORMER}.DEC_LAYERS": 0}, ["DEC_LAYERS is 0", "at least 1"]),
    "fewer than no layers": ({f"{MASK_FORMER}.ENC_LAYERS": -1}, ["ENC_LAYERS is -1"]),
    "no queries": ({f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 0}, ["NUM_OBJECT_QUERIES is 0"]),
    "no heads": ({f"{MASK_FORMER}.NHEADS": 0}, ["NHEADS is 0"]),
    "negative weight": ({f"{MASK_FORMER}.DICE_WEIGHT": -1.0}, ["DICE_WEIGHT is -1.0"]),
    "norm": ({f"{HEAD}.NORM": "GroupNorm"}, [f"{HEAD}.NORM is 'GroupNorm'", "GN"]),
    "groups": ({f"{HEAD}.CONVS_DIM": 40}, [f"{HEAD}.NORM is 'GN'", "CONVS_DIM 40"]),
    "features": ({f"{HEAD}.IN_FEATURES": ["p2"]}, ["IN_FEATURES asks for p2", "res2, res3"]),
    "no features": ({f"{HEAD}.IN_FEATURES": []}, ["IN_FEATURES asks for nothing"]),
    "pixels": ({f"{HEAD}.NAME": "PerPixelBaselineHead"}, ['use "SemanticSegmentor"']),
    "valid pixels of a baseline": (
        {**BASELINE, f"{MASK_FORMER}.VALID_MASK": True},
        ["MASK_FORMER.VALID_MASK is True", "turn it off"],
    ),
    "masks": ({"MODEL.META_ARCHITECTURE": "SemanticSegmentor"}, ['use "MaskFormer"']),
    "swin": ({**SWIN, "MODEL.SWIN.OUT_FEATURES": ["res1"]}, ["MODEL.SWIN", "res1"]),
    "no training set": (
        {f"{MASK_FORMER}.TEST.PANOPTIC_ON": True, "DATASETS.TRAIN": ()},
        ["DATASETS.TRAIN is empty"],
    ),
    "semantic output": (
        {f"{MASK_FORMER}.TEST.SEM_SEG_OUTPUT": "label"},
        ["SEM_SEG_OUTPUT is 'label'", "'scores' or 'labels'"],
    ),
    "no things": (
        {f"{MASK_FORMER}.TEST.PANOPTIC_ON": True, "DATASETS.TRAIN": ("ade20k_sem_seg_train",)},
        ["'ade20k_sem_seg_train' has no thing_dataset_id_to_contiguous_id"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name(case):
    options, parts = REFUSED[case]
    with pytest.raises(InputError) as caught:
        build_model(make_cfg(options))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["MaskFormerHead", "PerPixelBaselineHead"])
def test_a_head_is_no_pixel_decoder_of_itself(name):
    with pytest.raises(ValueError, match=f"{name}.*has one itself"):
        build_model(make_cfg({f"{HEAD}.PIXEL_DECODER_NAME": name}))


def test_the_contract_of_pixel_decoders():
    @SEM_SEG_HEADS_REGISTRY.register()
    def test_build_not_a_pixel_decoder(cfg, input_shape):
        return nn.Identity()

    cfg = make_cfg({f"{HEAD}.PIXEL_DECODER_NAME": "test_build_not_a_pixel_decoder"})
    with pytest.raises(ValueError, match="Identity has no method forward_features"):
        build_pixel_decoder(cfg, {})


def test_a_head_of_another_project_may_not_know_of_padding():
    @SEM_SEG_HEADS_REGISTRY.register()
    def test_build_other_head(cfg, input_shape):
        return nn.Identity()

    options = {f"{HEAD}.NAME": "test_build_other_head"}
    assert not build_model(make_cfg(options)).valid_mask
    with pytest.raises(InputError, match=r"VALID_MASK is True.*test_build_other_head"):
        build_model(make_cfg({**options, f"{MASK_FORMER}.VALID_MASK": True}))
    assert build_model(make_cfg({f"{MASK_FORMER}.VALID_MASK": True})).valid_mask


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
        assert model([image()])[0]["sem_seg"].shape == (3, 64, 96)


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


def samples():
    """Two images of different sizes with two segments each."""
    for height, width in ((64, 96), (50, 70)):
        instances = Instances((height, width))
        instances.gt_classes = torch.tensor([0, 2])
        instances.gt_masks = torch.zeros(2, height, width, dtype=torch.bool)
        instances.gt_masks[0, :20] = instances.gt_masks[1, 20:] = True
        yield {**image(height, width), "instances": instances}


def assert_alike(options, faster):
    """Losses, gradients and results, with and without the options that only make it faster."""
    options = {f"{MASK_FORMER}.DROPOUT": 0.0, "MODEL.SWIN.DROP_PATH_RATE": 0.0, **options}
    # In float64, where rounding hides nothing.
    plain, fast = (build_model(make_cfg(options | o)).double() for o in ({}, faster))
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast.load_state_dict(plain.state_dict())
    batch = list(samples())
    losses, expected = fast(batch), plain(batch)
    for name in expected:
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-5, atol=1e-6)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        results = zip(fast.eval()(batch), plain.eval()(batch), strict=True)
    for ours, theirs in results:
        torch.testing.assert_close(ours["sem_seg"], theirs["sem_seg"], rtol=1e-5, atol=1e-6)
    return fast


@pytest.mark.parametrize("backbone", [{}, SWIN, {"MODEL.BACKBONE.NAME": "build_resnet_backbone"}])
def test_channels_last_is_the_same(backbone):
    model = assert_alike({**backbone, **ENCODER}, {"MODEL.CHANNELS_LAST": True})
    weights = [p for p in model.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    features = model.backbone(torch.randn(2, 3, 64, 96).double())
    if not isinstance(model.backbone, D2SwinTransformer):  # which gives what any head takes
        formats = [f.is_contiguous(memory_format=torch.channels_last) for f in features.values()]
        assert all(formats)


def test_compiled_is_the_same():
    """By the compiler that users have; without a C++ compiler this fails, and rightly so."""
    features = (f"{HEAD}.IN_FEATURES", "MODEL.RESNETS.OUT_FEATURES")
    small = {key: ["res2"] for key in features}
    small |= {f"{MASK_FORMER}.DEC_LAYERS": 1, f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res2"}
    model = assert_alike(small, {"MODEL.COMPILE": True})
    assert model.backbone._compiled_call_impl is not None
    assert model.sem_seg_head._compiled_call_impl is not None
    # A copy has the graphs, with weights of its own.
    other, inputs = copy.deepcopy(model), [image(64, 96)]
    nn.init.zeros_(other.sem_seg_head.predictor.class_embed.weight)
    nn.init.zeros_(other.sem_seg_head.predictor.mask_embed.layers[-1].weight)
    with torch.no_grad():
        assert not torch.allclose(other(inputs)[0]["sem_seg"], model(inputs)[0]["sem_seg"])


@pytest.mark.parametrize(
    "options", [{}, SWIN, {**ENCODER, **TO_ENCODER, f"{MASK_FORMER}.VALID_MASK": True}]
)
@pytest.mark.parametrize("training", [True, False])
def test_backbone_and_head_are_one_graph_each(options, training):
    model = build_model(make_cfg(options)).train(training)
    padding = Padding([(64, 90), (33, 96)], (64, 96)) if model.valid_mask else None
    images = torch.randn(2, 3, 64, 96)
    torch._dynamo.reset()
    backbone = torch.compile(model.backbone, backend="eager", fullgraph=True, dynamic=False)
    head = torch.compile(model.sem_seg_head, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    found = head(backbone(images), padding)
    torch.manual_seed(0)
    expected = model.sem_seg_head(model.backbone(images), padding)
    torch.testing.assert_close(found.class_logits, expected.class_logits)


@pytest.mark.parametrize("options", [{}, SWIN, {**ENCODER, **TO_ENCODER}])
def test_both_are_one_graph_in_evaluation(options):
    model = build_model(make_cfg({**options, "MODEL.COMPILE": True})).eval()
    plain = build_model(make_cfg(options)).eval()
    plain.load_state_dict(model.state_dict())
    inputs = [image(64, 96), image(50, 70)]
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounter()
    assert model.predict is not predict
    model.predict = torch.compile(predict, backend=graphs, fullgraph=True, dynamic=False)
    with torch.no_grad():
        for found, expected in zip(model(inputs), plain(inputs), strict=True):
            torch.testing.assert_close(found["sem_seg"], expected["sem_seg"])
    assert graphs.frame_count == 1


def test_sizes_do_not_compile_the_head_again_and_again():
    model = build_model(make_cfg({f"{MASK_FORMER}.VALID_MASK": True})).eval()
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounter()
    head = torch.compile(model.sem_seg_head, backend=graphs, fullgraph=True)
    with torch.no_grad():
        for i in range(8):
            height, width = 64 + 32 * (i % 3), 96 + 32 * (i % 4)
            padding = Padding([(height - i, width), (height, width - 2 * i)], (height, width))
            head(model.backbone(torch.randn(2, 3, height, width)), padding)
    assert graphs.frame_count <= 4


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
from mask_former.d2.build import build_model
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
    """Spec 3.10; on the meta device, where nothing is allocated."""
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, str(ROOT / "configs" / f"{config}.yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == round(millions * 1e6)
    assert all(p.requires_grad for p in model.parameters())
