"""Focal and dice against hand-computed values, torchvision-free formulas in float64, and laws."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.functional import mask_losses
from mask_former.functional.mask_losses import (
    dice_loss,
    focal_loss,
    matched_mask_losses,
    pairwise_mask_costs,
)

LOGITS = torch.tensor([[0.0, 1.0, -2.0], [3.0, -1.0, 0.5]])
MASKS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])


def pairwise_focal_cost(logits, masks):
    return pairwise_mask_costs(logits, masks)[0]


def pairwise_dice_cost(logits, masks):
    return pairwise_mask_costs(logits, masks)[1]


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
        torch.testing.assert_close(paired(logits, masks), paired(logits[:, order], masks[:, order]))

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
    """A confident, right prediction: the cost is tiny, its background part over the mask huge."""
    masks = torch.ones(1, 10_000)
    logits = torch.full((1, 10_000), 12.0)
    assert float(F.softplus(logits).mean()) > 10
    assert 0 <= float(pairwise_focal_cost(logits, masks)) < 1e-12


def dense_case(masks=5, size=(3, 4), large=(13, 16), dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(masks, *size, generator=g)).to(dtype).requires_grad_()
    return logits, torch.rand(masks, *large, generator=g) < 0.4


def plain_losses(logits, masks):
    """Upsampling, then the two formulas."""
    large = F.interpolate(logits[:, None], masks.shape[-2:], mode="bilinear", align_corners=False)
    pixels, flat = large[:, 0].flatten(1), masks.flatten(1).to(logits)
    return focal_loss(pixels, flat), dice_loss(pixels, flat)


class TestMatchedMaskLosses:
    @pytest.mark.parametrize(
        ("size", "large"),
        [
            *(((3, 4), (13, 16)), ((4, 4), (4, 4)), ((1, 1), (5, 2)), ((6, 5), (3, 4))),
            # whole factors
            *(((3, 4), (12, 16)), ((5, 3), (10, 9)), ((4, 6), (4, 30)), ((2, 7), (16, 7))),
        ],
    )
    def test_losses_and_gradients_are_those_of_the_formulas(self, size, large):
        logits, masks = dense_case(size=size, large=large)
        # Any mixture of the rows' gradients, not only their plain sum.
        mixture = torch.randn(2, len(masks), dtype=torch.float64)
        ours, plain = matched_mask_losses(logits, masks), plain_losses(logits, masks)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
        (ours_grad,) = torch.autograd.grad((torch.stack(ours) * mixture).sum(), logits)
        (plain_grad,) = torch.autograd.grad((torch.stack(plain) * mixture).sum(), logits)
        torch.testing.assert_close(ours_grad, plain_grad, rtol=1e-10, atol=1e-13)

    def test_gradient_is_that_of_finite_differences(self):
        logits, masks = dense_case(masks=2)
        assert torch.autograd.gradcheck(lambda x: matched_mask_losses(x, masks), logits)

    @pytest.mark.parametrize("pixels", [1, 13 * 16 * 2, 13 * 16 * 3, 10**6])
    def test_chunks_do_not_matter(self, monkeypatch, pixels):
        logits, masks = dense_case()
        expected = torch.stack(matched_mask_losses(logits, masks))
        (expected_grad,) = torch.autograd.grad(expected.sum(), logits)
        monkeypatch.setattr(mask_losses, "CACHED_PIXELS", pixels)
        found = torch.stack(matched_mask_losses(logits, masks))
        (found_grad,) = torch.autograd.grad(found.sum(), logits)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
        torch.testing.assert_close(found_grad, expected_grad, rtol=1e-12, atol=1e-15)

    def test_no_masks(self):
        logits, masks = dense_case(masks=0)
        focal, dice = matched_mask_losses(logits, masks)
        assert focal.shape == dice.shape == (0,)
        (focal.sum() + dice.sum()).backward()
        assert logits.grad.shape == logits.shape

    @pytest.mark.parametrize("size", [1e4, 80.0, 0.0])
    def test_extreme_logits(self, size):
        masks = torch.tensor([[[True, False], [False, True]]]).repeat(2, 1, 1)
        logits = size * torch.stack([2.0 * masks[0] - 1, 1 - 2.0 * masks[0]]).requires_grad_()
        focal, dice = matched_mask_losses(logits, masks)
        expected = plain_losses(logits, masks)
        torch.testing.assert_close(focal, expected[0])
        torch.testing.assert_close(dice, expected[1])
        (grad,) = torch.autograd.grad((focal + dice).sum(), logits)
        assert grad.isfinite().all()

    def test_what_is_kept_has_the_size_of_the_logits(self):
        logits, masks = dense_case(size=(4, 4), large=(64, 64))
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t.numel()), lambda t: t
        ):
            matched_mask_losses(logits, masks)
        assert sum(kept) == 2 * logits.numel()


class TestValid:
    """Pixels that are not valid: as if the image had only the others."""

    def test_costs_are_those_of_the_valid_pixels_alone(self):
        logits, masks = random_case(4, 3, 20)
        valid = torch.rand(20, generator=torch.Generator().manual_seed(5)) < 0.6
        found = pairwise_mask_costs(logits, masks, valid)
        alone = pairwise_mask_costs(logits[:, valid], masks[:, valid])
        for a, b in zip(found, alone, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("per_pair", [False, True])
    def test_losses_and_gradients_are_those_of_the_valid_pixels_alone(self, per_pair):
        logits, masks = dense_case()
        g = torch.Generator().manual_seed(6)
        valid = torch.rand(masks.shape if per_pair else masks.shape[1:], generator=g) < 0.5
        ours = matched_mask_losses(logits, masks, valid=valid)
        large = F.interpolate(
            logits[:, None], masks.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
        pairs = []
        for x, mask, where in zip(large, masks, valid.expand_as(masks), strict=True):
            x, mask = x[where][None], mask[where][None].to(x)
            pairs.append(torch.cat([focal_loss(x, mask), dice_loss(x, mask)]))
        plain = torch.stack(pairs, dim=1)
        torch.testing.assert_close(torch.stack(ours), plain, rtol=1e-11, atol=1e-13)
        mixture = torch.randn(2, len(masks), dtype=torch.float64)
        (ours_grad,) = torch.autograd.grad((torch.stack(ours) * mixture).sum(), logits)
        (plain_grad,) = torch.autograd.grad((plain * mixture).sum(), logits)
        torch.testing.assert_close(ours_grad, plain_grad, rtol=1e-10, atol=1e-13)

    def test_all_valid_is_none(self):
        logits, masks = dense_case()
        ones = torch.ones(masks.shape[1:], dtype=torch.bool)
        for a, b in zip(
            matched_mask_losses(logits, masks, valid=ones),
            matched_mask_losses(logits, masks),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=0)

    @pytest.mark.parametrize("value", [1e4, -1e4, float("nan"), float("inf")])
    def test_logits_and_masks_of_ignored_pixels_do_not_matter(self, value):
        """At equal resolution, so that a logit belongs to one pixel."""
        logits, masks = dense_case(size=(6, 5), large=(6, 5))
        valid = torch.rand(6, 5, generator=torch.Generator().manual_seed(7)) < 0.5
        other = logits.detach().masked_fill(~valid, value).requires_grad_()
        results = []
        for x, mask in ((logits, masks), (other, masks ^ ~valid)):
            losses = torch.stack(matched_mask_losses(x, mask, valid=valid))
            results.append((losses, *torch.autograd.grad(losses.sum(), x)))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)
        assert torch.count_nonzero(results[1][1][:, ~valid]) == 0

    def test_nothing_valid(self):
        logits, masks = dense_case()
        none = torch.zeros(masks.shape[1:], dtype=torch.bool)
        losses = torch.stack(matched_mask_losses(logits, masks, valid=none))
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert torch.count_nonzero(losses) == torch.count_nonzero(gradient) == 0
        costs = pairwise_mask_costs(*random_case(4, 3, 20), torch.zeros(20, dtype=torch.bool))
        assert torch.count_nonzero(torch.stack(costs)) == 0


def test_pairs_may_share_a_mask():
    logits, masks = dense_case()
    index = torch.tensor([1, 1, 4, 0, 1])
    shared, copied = matched_mask_losses(logits, masks, index), plain_losses(logits, masks[index])
    for a, b in zip(shared, copied, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
