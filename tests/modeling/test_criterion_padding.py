"""Padding and ignored pixels change no loss and no gradient."""

import pytest
import torch

from mask_former.structures import MaskPrediction, MaskTarget
from tests.modeling.criterion_cases import METHODS, make_criterion, pad_batch, random_case, results


@METHODS
@pytest.mark.parametrize("value", [0.0, 1e4, float("nan")])
def test_padding_changes_nothing(points, value):
    prediction, targets = random_case([3, 2])
    alone = results(prediction, targets, points)
    padded = results(*pad_batch(prediction, targets, value), points)
    for a, b in zip(alone[:3], padded[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(padded[3][..., :4, :5], alone[3], rtol=1e-12, atol=1e-14)
    assert torch.count_nonzero(padded[3][..., 4:, :]) == 0
    assert torch.count_nonzero(padded[3][..., 5:]) == 0


@METHODS
def test_masks_of_ignored_pixels_do_not_matter(points):
    prediction, targets = pad_batch(*random_case([3, 2]), 0.0, ignored=(0, 1))
    others = [t._replace(masks=t.masks ^ ~t.valid) for t in targets]
    assert not torch.equal(others[0].masks, targets[0].masks)
    for a, b in zip(
        results(prediction, targets, points), results(prediction, others, points), strict=True
    ):
        assert torch.equal(a, b)


def test_images_of_different_sizes_in_a_batch_are_as_alone():
    """Sums over the images of a batch are those of each alone, but for the count of segments."""
    prediction, targets = random_case([3, 2])
    smaller = targets[1]._replace(size=(8, 12))
    both = make_criterion()(prediction, [targets[0], smaller])
    total = dict.fromkeys((name for name in both if not name.startswith("loss_ce")), 0.0)
    for i, target in enumerate([targets[0], smaller]):
        masks = target.masks if target.size is None else target.masks[:, :8, :12]
        maps = prediction.pixel_embed[i : i + 1]
        maps = maps if target.size is None else maps[..., :2, :3]
        alone = MaskPrediction(
            prediction.class_logits[:, i : i + 1], prediction.mask_embed[:, i : i + 1], maps
        )
        losses = make_criterion()(alone, [MaskTarget(target.labels, masks)])
        for name in total:
            total[name] += len(target.labels) * losses[name].item()
    assert len(total) == 6
    for name, loss in total.items():
        assert both[name].item() == pytest.approx(loss / 5, rel=1e-12)


@METHODS
def test_an_image_that_is_ignored_altogether(points):
    prediction, targets = random_case([3])
    targets = [targets[0]._replace(valid=torch.zeros(16, 20, dtype=torch.bool))]
    losses = make_criterion(points=points)(prediction, targets)
    masks = {k: v for k, v in losses.items() if not k.startswith("loss_ce")}
    assert all(float(v.detach()) == 0 for v in masks.values())
    assert all(v.isfinite() for v in losses.values())
    for gradient in torch.autograd.grad(sum(masks.values()), prediction[1:3]):
        assert torch.count_nonzero(gradient) == 0


@METHODS
def test_all_valid_and_full_size_is_as_without(points):
    prediction, targets = random_case([3, 2])
    full = [t._replace(valid=torch.ones(16, 20, dtype=torch.bool), size=(16, 20)) for t in targets]
    for a, b in zip(
        results(prediction, targets, points), results(prediction, full, points), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
