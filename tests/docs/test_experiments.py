"""The scripts of the experiments, against what is drawn, counted or worked by hand."""

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mask_former.functional.matching import bipartite_matching
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

FOLDER = Path(__file__).parents[2] / "docs" / "experiments"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"experiments_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def missed_things() -> ModuleType:
    return load("missed_things")


@pytest.fixture(scope="module")
def cross_entropy() -> ModuleType:
    return load("cross_entropy")


def test_shares_of_hue_and_form():
    """Of 100 pixels of things 60 are right; 20 have the hue, 10 the form, 4 neither, 6 grass."""
    names = ["grass", "red disc", "red star", "blue disc", "blue star"]
    confusion = np.zeros((5, 5), np.int64)
    confusion[0, 1] = 50  # grass that gets a thing does not count
    confusion[1] = [6, 40, 20, 10, 4]
    confusion[4, 4] = 20
    assert load("hue_or_form").shares(confusion, names) == [94, 80, 70, 60]


def columns(first, last):
    """[10, 20] bool; whole columns."""
    mask = np.zeros((10, 20), dtype=bool)
    mask[:, first:last] = True
    return mask


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([], "missed"),
        ([columns(0, 8)], "found"),  # 8 of the 8 columns
        ([columns(0, 5)], "found"),  # an IoU of 5/8
        ([columns(0, 4)], "missed"),  # of 4/8: not above a half
        ([columns(0, 16)], "merged"),  # wholly in a segment twice as large
        ([columns(0, 4), columns(4, 8)], "missed"),  # split in two
        ([columns(6, 20)], "missed"),  # little of it
        ([columns(0, 16), columns(0, 7)], "found"),
    ],
)
def test_fates(missed_things, segments, expected):
    assert missed_things.fate(columns(0, 8), segments) == expected


def test_what_is_touched(missed_things):
    """Within two pixels; its own class counts before another, and stuff not at all."""
    ids = np.zeros((9, 20), np.int64)
    ids[3:6, 2:5], ids[3:6, 6:9], ids[3:6, 12:15], ids[0, :] = 1, 2, 3, 7
    classes = {1: 4, 2: 4, 3: 4}
    own, other, nothing = (missed_things.KINDS[i] for i in (2, 1, 0))

    def found():
        return [missed_things.touched(ids, thing, classes) for thing in (1, 2, 3)]

    assert found() == [own, own, nothing]
    classes[2] = 5
    assert found() == [other, other, nothing]


def arguments():
    weights = LossWeights()
    matcher = partial(bipartite_matching, weights=weights)
    return {"num_classes": 2, "matcher": matcher, "weights": weights, "no_object_weight": 0.1}


def test_constant_masks_by_hand(cross_entropy):
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
    losses = cross_entropy.CrossEntropyCriterion(**arguments())(prediction, targets)
    softplus = torch.nn.functional.softplus
    expected = ((softplus(logits) + softplus(-logits)) / 2).mean(dim=1)  # over the two segments
    assert losses["loss_mask_0"].item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert losses["loss_mask"].item() == pytest.approx(expected[1].item(), rel=1e-6)


def test_the_other_losses_are_the_papers(cross_entropy):
    """And the mask loss is differentiated."""
    torch.manual_seed(0)
    embed = torch.randn(3, 2, 5, 4, requires_grad=True)
    prediction = MaskPrediction(torch.randn(3, 2, 5, 3), embed, torch.randn(2, 4, 4, 4))
    masks = torch.rand(2, 3, 16, 16) > 0.5
    targets = [MaskTarget(torch.tensor([0, 1, 1]), each) for each in masks]
    ours = cross_entropy.CrossEntropyCriterion(**arguments())(prediction, targets)
    paper = SetCriterion(**arguments())(prediction, targets)
    assert ours.keys() == paper.keys()
    for name in ours:
        if not name.startswith("loss_mask"):
            assert torch.equal(ours[name], paper[name]), name
    ours["loss_mask"].backward()
    gradient = embed.grad.abs().flatten(1).sum(dim=1)
    assert gradient[2] > 0
    assert not gradient[:2].any()
