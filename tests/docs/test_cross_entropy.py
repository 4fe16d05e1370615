"""The criterion with cross-entropy, against losses worked by hand."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch

from mask_former.functional.matching import bipartite_matching
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

SCRIPT = Path(__file__).parents[2] / "docs" / "experiments" / "cross_entropy.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("cross_entropy_of_docs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments():
    weights = LossWeights()
    matcher = partial(bipartite_matching, weights=weights)
    return {"num_classes": 2, "matcher": matcher, "weights": weights, "no_object_weight": 0.1}


def test_constant_masks_by_hand(script):
    """Two images with one query and one segment each, whose logit is the same at every pixel."""
    logits = torch.tensor([[1.5, -0.5], [3.0, 0.25]])  # [L, B]
    prediction = MaskPrediction(
        class_logits=torch.zeros(2, 2, 1, 3),
        mask_embed=logits[..., None, None],
        pixel_features=torch.ones(2, 1, 2, 2),
    )
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    masks[0, :, :2], masks[1, :, :, :4] = True, True  # a quarter, a half
    valid = torch.ones(8, 8, dtype=torch.bool)
    valid[4:] = False  # so a half of the first image's valid pixels
    targets = [
        MaskTarget(torch.tensor([0]), masks[0], valid),
        MaskTarget(torch.tensor([1]), masks[1]),
    ]
    losses = script.CrossEntropyCriterion(**arguments())(prediction, targets)
    softplus = torch.nn.functional.softplus
    expected = ((softplus(logits) + softplus(-logits)) / 2).mean(dim=1)  # over the two segments
    assert losses["loss_mask_0"].item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert losses["loss_mask"].item() == pytest.approx(expected[1].item(), rel=1e-6)


def test_the_other_losses_are_the_papers(script):
    """And the mask loss is differentiated."""
    torch.manual_seed(0)
    embed = torch.randn(3, 2, 5, 4, requires_grad=True)
    prediction = MaskPrediction(torch.randn(3, 2, 5, 3), embed, torch.randn(2, 4, 4, 4))
    masks = torch.rand(2, 3, 16, 16) > 0.5
    targets = [MaskTarget(torch.tensor([0, 1, 1]), each) for each in masks]
    ours = script.CrossEntropyCriterion(**arguments())(prediction, targets)
    paper = SetCriterion(**arguments())(prediction, targets)
    assert ours.keys() == paper.keys()
    for name in ours:
        if not name.startswith("loss_mask"):
            assert torch.equal(ours[name], paper[name]), name
    ours["loss_mask"].backward()
    gradient = embed.grad.abs().flatten(1).sum(dim=1)
    assert gradient[2] > 0
    assert not gradient[:2].any()
