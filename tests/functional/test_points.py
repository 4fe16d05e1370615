"""Sampling and losses at points: against dense interpolation, by hand, and laws."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.functional.mask_losses import matched_mask_losses
from mask_former.functional.points import (
    PointOptions,
    as_rows,
    choose_points,
    draw_points,
    point_losses,
    sample_embeddings,
    sample_image,
    sample_masks,
)
from mask_former.structures import MaskPrediction, MaskTarget

SIZE = (13, 16)


def centres(size):
    """The centre of every pixel, row by row, [H * W, 2]."""
    y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) + 0.5 for n in size), indexing="ij"
    )
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def random_case(pairs=6, segments=4, dim=5, seed=0, ignored=0.0):
    """Mask embeddings, pixel embeddings and a target; spread of the logits about 3."""
    g = torch.Generator().manual_seed(seed)
    embed = torch.randn(pairs, dim, generator=g, dtype=torch.float64).requires_grad_()
    maps = torch.randn(dim, 4, 5, generator=g, dtype=torch.float64).requires_grad_()
    masks = torch.rand(segments, *SIZE, generator=g) < 0.4
    valid = torch.rand(SIZE, generator=g) >= ignored
    target = MaskTarget(torch.arange(segments), masks, valid if ignored else None)
    return embed, maps, target, torch.arange(pairs) % segments


def dense_losses(embed, maps, target, index):
    logits = torch.einsum("md,dhw->mhw", embed, maps)
    return matched_mask_losses(logits, target.masks, index, target.valid)


class TestDrawing:
    def test_counts(self):
        like = torch.zeros(())
        assert PointOptions(100).candidates == 300
        assert PointOptions(100).chosen == 75
        assert draw_points(SIZE, PointOptions(100), like).shape == (325, 2)
        assert draw_points(SIZE, PointOptions(7, 1.0, 1.0), like).shape == (7, 2)
        assert draw_points(SIZE, PointOptions(7, 1.5, 0.0), like).shape == (10 + 7, 2)

    def test_a_seed_gives_the_points(self):
        draws = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            draws.append(draw_points(SIZE, PointOptions(10), torch.zeros(())))
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])

    def test_every_part_is_uniform_over_the_image(self):
        torch.manual_seed(0)
        points = draw_points((10, 40), PointOptions(4000), torch.zeros((), dtype=torch.float64))
        assert points.dtype == torch.float64
        for part in points.split([4000, 8000, 1000]):
            cell = (part / torch.tensor([20.0, 5.0])).long()  # quarters of the image
            count = torch.bincount(cell[:, 0] * 2 + cell[:, 1], minlength=4)
            assert count.sum() == len(part)
            # Within five standard deviations of a quarter each.
            assert ((count - len(part) / 4).abs() < 5 * (len(part) * 3 / 16) ** 0.5).all()
            x, y = part.T - part.mean(0)[:, None]
            assert abs(float((x * y).mean() / (x.std() * y.std()))) < 5 / len(part) ** 0.5


class TestSampling:
    @pytest.mark.parametrize("size", [(13, 16), (4, 5), (3, 3), (1, 1)])
    def test_embeddings_at_pixel_centres_are_those_of_interpolate(self, size):
        _, maps, _, _ = random_case()
        sampled = sample_embeddings(maps, centres(size), size)
        large = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(sampled, large.flatten(1), rtol=1e-12, atol=1e-12)

    def test_embeddings_beyond_the_last_centres_are_those_of_the_border(self):
        maps = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
        points = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 4.0], [8.0, 4.0], [4.0, 0.2]])
        sampled = sample_embeddings(maps, points, (4, 8))
        torch.testing.assert_close(sampled, torch.tensor([[1.0, 2.0, 3.0, 5.0, 1.5]]))

    def test_product_and_sampling_commute(self):
        embed, maps, _, _ = random_case()
        points = draw_points(SIZE, PointOptions(50), maps)
        before = embed @ sample_embeddings(maps, points, SIZE)
        after = sample_embeddings(torch.einsum("md,dhw->mhw", embed, maps), points, SIZE)
        torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)

    def test_masks_are_those_of_the_pixel_that_holds_the_point(self):
        _, _, target, _ = random_case()
        points = draw_points(SIZE, PointOptions(50), torch.zeros(()))
        sampled = sample_masks(target.masks, points)
        for column, (x, y) in enumerate(points.tolist()):
            assert torch.equal(sampled[:, column], target.masks[:, int(y), int(x)])

    def test_a_point_on_the_far_border_is_in_the_last_pixel(self):
        masks = torch.tensor([[[False, False], [False, True]]])
        assert sample_masks(masks, torch.tensor([[2.0, 2.0]])).tolist() == [[True]]

    def test_a_row_has_the_first_points_of_each_image(self):
        embed, maps, target, _ = random_case(ignored=0.5)
        points = draw_points(SIZE, PointOptions(8), maps)
        sample = sample_image(maps, target, points)
        prediction = MaskPrediction(torch.zeros(1, 2, 3, 4), embed[None, None], maps[None])
        rows, targets = as_rows(prediction, [sample, sample], 8)
        assert rows.pixel_embed.shape == (2, 5, 1, 8)
        torch.testing.assert_close(
            rows.pixel_embed[1, :, 0], sample_embeddings(maps.detach(), points[:8], SIZE)
        )
        assert torch.equal(targets[0].masks[:, 0], sample_masks(target.masks, points[:8]))
        assert torch.equal(targets[0].valid, sample_masks(target.valid[None], points[:8]))


class TestChoice:
    def test_the_most_uncertain_candidates_and_the_rest(self):
        logits = torch.tensor([[3.0, -0.1, 0.5, -2.0, 0.0, 9.0], [0.2, 8.0, -7.0, 0.1, 0.0, 9.0]])
        options = PointOptions(number=4, oversample_ratio=1.0, importance_ratio=0.5)
        columns = choose_points(logits, None, options)
        assert [sorted(row) for row in columns.tolist()] == [[1, 2, 4, 5], [0, 3, 4, 5]]

    def test_ignored_candidates_come_last(self):
        logits = torch.tensor([[3.0, -0.1, 0.5, -2.0, 0.0, 9.0]])
        options = PointOptions(number=4, oversample_ratio=1.0, importance_ratio=0.5)
        valid = torch.tensor([[True, False, False, True, True, True]])
        assert sorted(choose_points(logits, valid, options)[0].tolist()) == [0, 3, 4, 5]
        valid = torch.tensor([[True, False, False, False, True, True]])
        assert {0, 4, 5} < set(choose_points(logits, valid, options)[0].tolist())


class TestLosses:
    @pytest.mark.parametrize("ignored", [0.0, 0.3])
    def test_points_at_all_pixel_centres_give_the_dense_losses(self, ignored):
        embed, maps, target, index = random_case(ignored=ignored)
        pixels = centres(SIZE)
        options = PointOptions(len(pixels), oversample_ratio=1.0, importance_ratio=0.0)
        sample = sample_image(maps, target, torch.cat([torch.rand_like(pixels), pixels]))
        mixture = torch.randn(2, len(embed), dtype=torch.float64)
        results = []
        for losses in (
            point_losses(embed, maps, sample, index, options),
            dense_losses(embed, maps, target, index),
        ):
            total = (torch.stack(losses) * mixture).sum()
            results.append([*losses, *torch.autograd.grad(total, [embed, maps])])
        for points, dense in zip(*results, strict=True):
            torch.testing.assert_close(points, dense, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("ignored", [0.0, 0.3])
    def test_gradient_is_that_of_finite_differences(self, ignored):
        embed, maps, target, index = random_case(ignored=ignored)
        options = PointOptions(20)
        points = draw_points(SIZE, options, maps)

        def losses(embed, maps):
            sample = sample_image(maps, target, points)
            return point_losses(embed, maps, sample, index, options)

        assert torch.autograd.gradcheck(losses, (embed, maps))

    def test_the_mean_over_draws_is_the_dense_focal_loss(self):
        torch.manual_seed(0)
        embed, maps, target, index = random_case()
        # Masks are exact at any point of a pixel, embeddings vary within it: finer pixels.
        masks = target.masks.repeat_interleave(8, 1).repeat_interleave(8, 2)
        target = target._replace(masks=masks)
        options = PointOptions(200, importance_ratio=0.0)
        draws = []
        for _ in range(200):
            sample = sample_image(maps, target, draw_points(masks.shape[-2:], options, maps))
            with torch.no_grad():
                draws.append(torch.stack(point_losses(embed, maps, sample, index, options)))
        found = torch.stack(draws)
        error = found.std(0) / len(draws) ** 0.5
        dense = torch.stack(dense_losses(embed, maps, target, index)).detach()
        assert ((found.mean(0) - dense)[0].abs() < 4 * error[0]).all()
        # Dice is a ratio of sums: a bias of the order 1 / number remains.
        assert ((found.mean(0) - dense)[1].abs() < 4 * error[1] + 0.01).all()

    def test_importance_prefers_the_boundary(self):
        """A confident and right prediction: only near the boundary is there a loss."""
        torch.manual_seed(0)
        ramp = torch.linspace(-40, 40, 32).expand(1, 32, 32)
        target = MaskTarget(torch.tensor([0]), ramp > 0)
        losses = []
        for share in (0.0, 0.75):
            options = PointOptions(100, importance_ratio=share)
            sample = sample_image(ramp, target, draw_points((32, 32), options, ramp))
            one = torch.ones(1, 1)
            losses.append(point_losses(one, ramp, sample, torch.tensor([0]), options)[0])
        assert losses[1] > 2 * losses[0]

    def test_all_points_ignored(self):
        embed, maps, target, index = random_case()
        target = target._replace(valid=torch.zeros(SIZE, dtype=torch.bool))
        losses = self.losses_without_gradient(embed, maps, target, index)
        assert torch.count_nonzero(losses) == 0

    def test_no_pairs(self):
        embed, maps, target, index = random_case()
        losses = self.losses_without_gradient(embed, maps, target, index, pairs=0)
        assert losses.shape == (2, 0)

    def losses_without_gradient(self, embed, maps, target, index, pairs=None):
        """The losses [2, pairs] of the first pairs, of all if none; no gradient comes of them."""
        options = PointOptions(10)
        sample = sample_image(maps, target, draw_points(SIZE, options, maps))
        losses = torch.stack(point_losses(embed[:pairs], maps, sample, index[:pairs], options))
        for gradient in torch.autograd.grad(losses.sum(), [embed, maps]):
            assert torch.count_nonzero(gradient) == 0
        return losses

    def test_what_is_kept(self):
        """Gradients and columns of the chosen points, the points, and the inputs."""
        embed, maps, target, index = random_case()
        options = PointOptions(30)
        sample = sample_image(maps, target, draw_points(SIZE, options, maps))
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t.numel()), lambda t: t
        ):
            point_losses(embed, maps, sample, index, options)
        pairs = len(embed)
        inputs = embed.numel() + maps.numel() + sample.points.numel()
        assert sum(kept) == 3 * pairs * options.number + inputs
