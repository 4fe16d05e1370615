"""Traced and exported models give the same results at other sizes; operators are counted."""

import warnings

import pytest
import torch
from detectron2.export import TracingAdapter
from detectron2.utils.analysis import FlopCountAnalysis
from torch.export import Dim

from mask_former.d2.errors import InputError
from tests.d2.tiny_models import HEAD, MASK_FORMER, SWIN, WITH_ENCODER, image, make_model

PANOPTIC = {
    f"{MASK_FORMER}.TEST.PANOPTIC_ON": True,
    "DATASETS.TRAIN": ("shapes_panoptic_train",),
    f"{HEAD}.NUM_CLASSES": 7,
}
LABELS = {f"{MASK_FORMER}.TEST.SEM_SEG_OUTPUT": "labels"}
FIRST = {f"{MASK_FORMER}.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": True}
SIZES = [(64, 96), (50, 70), (128, 80)]


def traced(model):
    """The model as torch.jit.trace has it, and the warnings that name our files."""
    adapter = TracingAdapter(model, [image(*SIZES[0])])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = torch.jit.trace(adapter, adapter.flattened_inputs)
    return graph, [w for w in caught if "mask_former" in w.filename.split("site-packages")[-1]]


@pytest.mark.parametrize(
    "options",
    [{}, WITH_ENCODER, SWIN, LABELS, FIRST],
    ids=["R", "encoder", "Swin", "labels", "1st"],
)
@torch.no_grad()
def test_a_traced_semantic_model_serves_other_sizes(options):
    model = make_model(options).eval()
    graph, warned = traced(model)
    assert [str(w.message) for w in warned] == []
    for seed, size in enumerate(SIZES):
        expected = model([image(*size, seed=seed)])[0]["sem_seg"]
        (found,) = graph(image(*size, seed=seed)["image"])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [PANOPTIC, {f"{MASK_FORMER}.VALID_MASK": True}])
def test_other_results_cannot_be_traced(options):
    with pytest.raises(InputError, match=r"only marginal semantic results .* can be traced: turn"):
        traced(make_model(options).eval())


SHAPES = [(2, 3, 64, 96), (3, 3, 96, 64), (1, 3, 64, 160)]
# Swin's coarsest map has several windows: for an exporter a number that is 1 does not vary.
WINDOWS = [(2, 3, 128, 160), (3, 3, 170, 130), (1, 3, 96, 194)]
SMALL_WINDOWS = {**SWIN, "MODEL.SWIN.WINDOW_SIZE": 3, "MODEL.SWIN.DEPTHS": [2, 1, 1, 1]}


@pytest.mark.parametrize(
    ("options", "shapes"),
    [({}, SHAPES), (WITH_ENCODER, SHAPES), (SMALL_WINDOWS, WINDOWS)],
    ids=["R", "encoder", "Swin"],
)
@torch.no_grad()
def test_backbone_and_head_export_with_dynamic_sizes(options, shapes):
    model = make_model(options).eval()
    images = torch.randn(*shapes[0])
    sizes = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    # Whether a map of windows fills its memory differs from size to size: it must not be asked.
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        backbone = torch.export.export(
            model.backbone, (images,), dynamic_shapes=(sizes,), strict=False
        ).module()
    features = model.backbone(images)
    head = torch.export.export(
        model.sem_seg_head,
        (features,),
        dynamic_shapes=(dict.fromkeys(features, sizes),),
        strict=False,
    ).module()
    for shape in shapes:
        images = torch.randn(*shape)
        found, expected = head(backbone(images)), model.network(images)
        torch.testing.assert_close(found.class_logits, expected.class_logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            found.mask_logits(), expected.mask_logits(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("options", [{}, SWIN], ids=["R", "swin"])
@torch.no_grad()
def test_detectron2_counts_operators(options):
    """By fvcore's handles; convolutions alone are most of them."""
    model = make_model(options).eval()
    counts = FlopCountAnalysis(model, [image(64, 96)]).unsupported_ops_warnings(False)
    by_module = counts.by_module()
    stem = model.backbone.patch_embed.proj if options else model.backbone.stem.conv1
    pixels = 64 * 96 // stem.stride[0] ** 2
    assert by_module["model.backbone"] > 2 * pixels * stem.weight.numel()
    layer = model.sem_seg_head.pixel_decoder.layer_1
    per_pixel = layer.in_channels * layer.out_channels * 9
    assert by_module["model.sem_seg_head.pixel_decoder.layer_1"] >= per_pixel * 16 * 24
    predictor = model.sem_seg_head.predictor
    queries, mask_embed = predictor.query_embed.num_embeddings, predictor.mask_embed.layers
    per_query = sum(layer.weight.numel() for layer in [predictor.class_embed, *mask_embed])
    layers = len(predictor.transformer.decoder.layers)
    assert by_module["model.sem_seg_head.predictor"] > layers * queries * per_query
