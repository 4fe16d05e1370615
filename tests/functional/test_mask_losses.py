"""Focal and dice against hand-computed values, torchvision-free formulas in float64, and laws."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.functional.mask_losses import (
    dice_loss,
    focal_loss,
    pairwise_dice_cost,
    pairwise_focal_cost,
)

LOGITS = torch.tensor([[0.0, 1.0, -2.0], [3.0, -1.0, 0.5]])
MASKS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])


def random_case(queries, segments, points, spread=4.0):
    generator = torch.Generator().manual_seed(queries + 10 * segments + 100 * points)
    logits = spread * torch.randn(queries, points, generator=generator, dtype=torch.float64)
    masks = (torch.rand(segments, points, generator=generator) < 0.4).double()
    return logits, masks


def slow_focal(logit, is_foreground):
    """Lin et al. 2017, equation 5, for one pixel."""
    prob = 1 / (1 + torch.exp(-logit))
    p_t, alpha_t = (prob, 0.25) if is_foreground else (1 - prob, 0.75)
    return -alpha_t * (1 - p_t) ** 2 * torch.log(p_t)


def test_published_values_of_pairs():
    assert float(focal_loss(LOGITS, MASKS).sum() / 2) == pytest.approx(0.17160481, abs=1e-7)
    assert float(dice_loss(LOGITS, MASKS).sum() / 2) == pytest.approx(0.34612271, abs=1e-7)


def test_published_values_of_combinations():
    focal = torch.tensor([[0.190359, 0.016780], [0.100027, 0.152851]])
    dice = torch.tensor([[0.403032, 0.204159], [0.244233, 0.289214]])
    torch.testing.assert_close(pairwise_focal_cost(LOGITS, MASKS), focal, atol=1e-6, rtol=0)
    torch.testing.assert_close(pairwise_dice_cost(LOGITS, MASKS), dice, atol=1e-6, rtol=0)


def test_focal_is_the_mean_of_the_pixel_formula():
    logits, masks = random_case(3, 3, 7)
    for row, mask, loss in zip(logits, masks, focal_loss(logits, masks), strict=True):
        pixels = [slow_focal(x, bool(m)) for x, m in zip(row, mask, strict=True)]
        assert float(loss) == pytest.approx(float(sum(pixels)) / 7, rel=1e-9)


def test_dice_by_counting_for_a_certain_prediction():
    # 3 predicted, 2 true, 1 in common: 1 - (2 * 1 + 1) / (3 + 2 + 1).
    logits = torch.tensor([[50.0, 50.0, 50.0, -50.0, -50.0]])
    masks = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0]])
    assert float(dice_loss(logits, masks)) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("paired", "pairwise"),
    [(focal_loss, pairwise_focal_cost), (dice_loss, pairwise_dice_cost)],
)
class TestLaws:
    def test_paired_is_the_diagonal_of_pairwise(self, paired, pairwise):
        logits, masks = random_case(5, 5, 11)
        torch.testing.assert_close(paired(logits, masks), pairwise(logits, masks).diagonal())

    def test_order_of_pixels_does_not_matter(self, paired, pairwise):
        logits, masks = random_case(4, 4, 9)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            paired(logits, masks), paired(logits[:, order], masks[:, order])
        )

    def test_rows_are_independent(self, paired, pairwise):
        logits, masks = random_case(4, 3, 9)
        cost = pairwise(logits, masks)
        torch.testing.assert_close(pairwise(logits[2:3], masks[1:2]), cost[2:3, 1:2])

    def test_no_pairs_give_an_empty_result(self, paired, pairwise):
        logits, masks = random_case(4, 3, 9)
        assert paired(logits[:0], masks[:0]).shape == (0,)
        assert pairwise(logits, masks[:0]).shape == (4, 0)

    def test_extreme_logits_stay_finite(self, paired, pairwise):
        logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
        masks = torch.tensor([[0.0, 1.0, 1.0]])
        loss = paired(logits, masks)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logits.grad.isfinite().all()
        assert pairwise(logits.detach(), masks).isfinite().all()

    def test_gradient_is_that_of_finite_differences(self, paired, pairwise):
        logits, masks = random_case(2, 2, 5)
        assert torch.autograd.gradcheck(lambda x: paired(x, masks), logits.requires_grad_())


def test_perfect_prediction_costs_nothing():
    masks = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    logits = 60 * (2 * masks - 1)
    assert float(focal_loss(logits, masks)) == pytest.approx(0, abs=1e-12)
    assert float(dice_loss(logits, masks)) == pytest.approx(0, abs=1e-6)


def test_large_segments_do_not_cancel():
    # A confident, right prediction: the cost is tiny, its background part over the mask is huge.
    masks = torch.ones(1, 10_000)
    logits = torch.full((1, 10_000), 12.0)
    expected = float(slow_focal(torch.tensor(12.0, dtype=torch.float64), True))
    assert float(pairwise_focal_cost(logits, masks)) == pytest.approx(expected, rel=1e-2)
    assert float(F.softplus(logits).mean()) > 1e6 * expected
