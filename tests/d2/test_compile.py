"""Channels last and compiled: the same numbers, in one graph each."""

import copy

import pytest
import torch
import torch._dynamo.testing
from detectron2.structures import Instances
from torch import nn

from mask_former.d2.build.model import build_model
from mask_former.structures import Padding
from tests.d2.tiny_models import ENCODER, HEAD, MASK_FORMER, SWIN, WITH_ENCODER, image, make_cfg


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


@pytest.mark.parametrize("options", [{}, SWIN, {**WITH_ENCODER, f"{MASK_FORMER}.VALID_MASK": True}])
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
