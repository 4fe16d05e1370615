"""Names that nobody knows and keys that contradict each other are refused, and named."""

import pytest
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from mask_former.d2.build.head import build_pixel_decoder
from mask_former.d2.build.model import build_model
from mask_former.d2.errors import InputError
from tests.d2 import tiny_models as tiny

REFUSED = {
    "meta": ({"MODEL.META_ARCHITECTURE": "MaskFomer"}, ["META_ARCHITECTURE", "mean MaskFormer"]),
    "backbone": ({"MODEL.BACKBONE.NAME": "D2Swin"}, ["BACKBONE.NAME", "D2SwinTransformer"]),
    "head": ({f"{tiny.HEAD}.NAME": "MaskformerHead"}, [f"{tiny.HEAD}.NAME", "mean MaskFormerHead"]),
    "decoder": (
        {f"{tiny.HEAD}.PIXEL_DECODER_NAME": "BasePixelDecodr"},
        ["PIXEL_DECODER_NAME", "mean BasePixelDecoder"],
    ),
    "mask decoder": (
        {f"{tiny.MASK_FORMER}.MASK_DECODER": "TransformerPredicter"},
        ["MASK_FORMER.MASK_DECODER", "mean TransformerPredictor"],
    ),
    "matcher": (
        {f"{tiny.MASK_FORMER}.MATCHER": "hungarian"},
        [".MATCHER", "known are bipartite, fixed"],
    ),
    "criterion": (
        {f"{tiny.MASK_FORMER}.CRITERION": "Criterion"},
        [".CRITERION", "mean SetCriterion"],
    ),
    "points": (
        {f"{tiny.MASK_FORMER}.TRAIN_NUM_POINTS": -1},
        [f"{tiny.MASK_FORMER}.TRAIN_NUM_POINTS is -1", "from 0 to"],
    ),
    "oversampling": (
        {f"{tiny.MASK_FORMER}.OVERSAMPLE_RATIO": 0.5},
        [f"{tiny.MASK_FORMER}.OVERSAMPLE_RATIO is 0.5", "of 1 or more"],
    ),
    "negative importance": (
        {f"{tiny.MASK_FORMER}.IMPORTANCE_SAMPLE_RATIO": -0.1},
        [f"{tiny.MASK_FORMER}.IMPORTANCE_SAMPLE_RATIO is -0.1", "from 0 to 1"],
    ),
    "importance": (
        {f"{tiny.MASK_FORMER}.IMPORTANCE_SAMPLE_RATIO": 1.5},
        [f"{tiny.MASK_FORMER}.IMPORTANCE_SAMPLE_RATIO is 1.5", "from 0 to 1"],
    ),
    "no encoder": (tiny.TO_ENCODER, ["TRANSFORMER_IN_FEATURE", "'BasePixelDecoder'"]),
    "no encoder in a head": (
        {**tiny.TO_ENCODER, f"{tiny.HEAD}.PIXEL_DECODER_NAME": "SemSegFPNHead"},
        ["TRANSFORMER_IN_FEATURE", "'SemSegFPNHead'"],
    ),
    "no such feature": (
        {f"{tiny.MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res6"},
        ["TRANSFORMER_IN_FEATURE is 'res6'", "res2, res3, res4, res5"],
    ),
    "fixed": (
        {f"{tiny.MASK_FORMER}.MATCHER": "fixed"},
        [".MATCHER", "NUM_OBJECT_QUERIES is 5", "NUM_CLASSES 3"],
    ),
    "plus": (
        {**tiny.PLUS, f"{tiny.MASK_FORMER}.NUM_OBJECT_QUERIES": 100},
        ["NUM_OBJECT_QUERIES is 100", "NUM_CLASSES 3"],
    ),
    "plus with another decoder": (
        {**tiny.PLUS, f"{tiny.MASK_FORMER}.MASK_DECODER": "Mine"},
        ["MASK_DECODER is 'Mine'"],
    ),
    "heads": ({f"{tiny.MASK_FORMER}.NHEADS": 5}, ["HIDDEN_DIM is 32", "NHEADS 5"]),
    "odd width": (
        {f"{tiny.MASK_FORMER}.HIDDEN_DIM": 33, f"{tiny.MASK_FORMER}.NHEADS": 3},
        ["HIDDEN_DIM is 33", "even"],
    ),
    "width of the encoder": (
        {
            **tiny.ENCODER,
            f"{tiny.HEAD}.CONVS_DIM": 40,
            f"{tiny.MASK_FORMER}.NHEADS": 32,
            f"{tiny.HEAD}.NORM": "BN",
        },
        ["CONVS_DIM is 40", "NHEADS 32"],
    ),
    "no layers": ({f"{tiny.MASK_FORMER}.DEC_LAYERS": 0}, ["DEC_LAYERS is 0", "from 1 to"]),
    "fewer than no layers": ({f"{tiny.MASK_FORMER}.ENC_LAYERS": -1}, ["ENC_LAYERS is -1"]),
    "no queries": ({f"{tiny.MASK_FORMER}.NUM_OBJECT_QUERIES": 0}, ["NUM_OBJECT_QUERIES is 0"]),
    "no heads": ({f"{tiny.MASK_FORMER}.NHEADS": 0}, ["NHEADS is 0"]),
    "negative weight": ({f"{tiny.MASK_FORMER}.DICE_WEIGHT": -1.0}, ["DICE_WEIGHT is -1.0"]),
    "norm": ({f"{tiny.HEAD}.NORM": "GroupNorm"}, [f"{tiny.HEAD}.NORM is 'GroupNorm'", "GN"]),
    "groups": ({f"{tiny.HEAD}.CONVS_DIM": 40}, [f"{tiny.HEAD}.NORM is 'GN'", "CONVS_DIM 40"]),
    "features": ({f"{tiny.HEAD}.IN_FEATURES": ["p2"]}, ["IN_FEATURES asks for p2", "res2, res3"]),
    "no features": ({f"{tiny.HEAD}.IN_FEATURES": []}, ["IN_FEATURES is []", "at least one"]),
    "pixels": ({f"{tiny.HEAD}.NAME": "PerPixelBaselineHead"}, ['use "SemanticSegmentor"']),
    "valid pixels of a baseline": (
        {**tiny.BASELINE, f"{tiny.MASK_FORMER}.VALID_MASK": True},
        ["MASK_FORMER.VALID_MASK is True", "turn it off"],
    ),
    "masks": ({"MODEL.META_ARCHITECTURE": "SemanticSegmentor"}, ['use "MaskFormer"']),
    "swin": ({**tiny.SWIN, "MODEL.SWIN.OUT_FEATURES": ["res1"]}, ["MODEL.SWIN", "res1"]),
    "no training set": (
        {f"{tiny.MASK_FORMER}.TEST.PANOPTIC_ON": True, "DATASETS.TRAIN": ()},
        ["DATASETS.TRAIN is empty"],
    ),
    "semantic output": (
        {f"{tiny.MASK_FORMER}.TEST.SEM_SEG_OUTPUT": "label"},
        ["SEM_SEG_OUTPUT is 'label'", "scores or labels"],
    ),
    "no things": (
        {f"{tiny.MASK_FORMER}.TEST.PANOPTIC_ON": True, "DATASETS.TRAIN": ("ade20k_sem_seg_train",)},
        ["'ade20k_sem_seg_train' has no thing_dataset_id_to_contiguous_id"],
    ),
    "misspelt set": (
        {
            f"{tiny.MASK_FORMER}.TEST.PANOPTIC_ON": True,
            "DATASETS.TRAIN": ("ade20k_panoptic_trian",),
        },
        ["ade20k_panoptic_trian is not registered; did you mean ade20k_panoptic_train"],
    ),
    "unknown set of instances": (
        {f"{tiny.MASK_FORMER}.TEST.INSTANCE_ON": True, "DATASETS.TRAIN": ("zebra",)},
        ["zebra is not registered"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name(case):
    options, parts = REFUSED[case]
    with pytest.raises(InputError) as caught:
        build_model(tiny.make_cfg(options))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["MaskFormerHead", "PerPixelBaselineHead"])
def test_a_head_is_no_pixel_decoder_of_itself(name):
    with pytest.raises(InputError, match=f"{name}.*has one itself"):
        build_model(tiny.make_cfg({f"{tiny.HEAD}.PIXEL_DECODER_NAME": name}))


def test_the_contract_of_pixel_decoders():
    @SEM_SEG_HEADS_REGISTRY.register()
    def test_build_not_a_pixel_decoder(cfg, input_shape):
        return nn.Identity()

    cfg = tiny.make_cfg({f"{tiny.HEAD}.PIXEL_DECODER_NAME": "test_build_not_a_pixel_decoder"})
    with pytest.raises(InputError, match="Identity has no method forward_features"):
        build_pixel_decoder(cfg, {})
