"""The criterion at random points in place of all pixels."""

import pytest
import torch

from mask_former.functional.matching import bipartite_matching, fixed_matching
from mask_former.functional.points import PointOptions
from mask_former.structures import MaskPrediction
from tests.modeling.criterion_cases import POINTS, WEIGHTS, make_criterion, random_case, results


def test_a_seed_gives_the_step():
    case = random_case([3, 2])
    first, second, other = (results(*case, POINTS, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_many_points_are_near_the_dense_losses():
    prediction, targets = random_case([3, 2])
    matches = bipartite_matching(prediction, targets, WEIGHTS)
    dense = make_criterion()(prediction, targets)
    criterion = make_criterion(points=PointOptions(20_000, 1.0, 0.0))
    criterion.matcher = lambda *_: matches  # with points another one may be best
    for name, loss in criterion(prediction, targets).items():
        assert float(loss.detach()) == pytest.approx(float(dense[name].detach()), rel=0.03)


@pytest.mark.parametrize("segments", [[1, 0], [0, 0], [7, 4]])
def test_few_or_many_segments(segments):
    prediction, targets = random_case(segments)
    losses, *grads = results(prediction, targets, POINTS)
    assert losses.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)
    assert [float(loss) == 0 for loss in losses[1:3]] == [sum(segments) == 0] * 2
    assert [bool(grad.any()) for grad in grads] == [True, sum(segments) > 0, sum(segments) > 0]


def test_a_matcher_of_the_usual_signature_sees_rows_of_pixels():
    prediction, targets = random_case([3, 2])
    seen = []

    def matcher(prediction, targets):
        seen.append((prediction, targets))
        return bipartite_matching(prediction, targets, WEIGHTS)

    criterion = make_criterion(points=POINTS)
    criterion.matcher = matcher
    criterion(prediction, targets)
    ((prediction, rows),) = seen
    assert prediction.pixel_embed.shape == (2, 6, 1, 40)
    assert [tuple(row.masks.shape) for row in rows] == [(3, 1, 40), (2, 1, 40)]


def test_with_fixed_matching():
    prediction, targets = random_case([0, 0])
    targets = [
        t._replace(labels=torch.tensor([2, 0]), masks=m)
        for t, m in zip(targets, torch.rand(2, 2, 16, 20) < 0.5, strict=True)
    ]
    criterion = make_criterion(points=POINTS)
    criterion.matcher = fixed_matching
    losses = criterion(prediction, targets)
    (grad,) = torch.autograd.grad(losses["loss_mask"], prediction.mask_embed)
    assert grad[-1].abs().sum(-1).gt(0).tolist() == [[True, False, True, False, False]] * 2


def test_half_precision():
    prediction, targets = random_case([3, 2], dtype=torch.float32)
    half = MaskPrediction(*(x.detach().bfloat16().requires_grad_() for x in prediction[:3]))
    exact = MaskPrediction(*(x.detach().float().requires_grad_() for x in half[:3]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, *_ = results(half, targets, POINTS)
    torch.testing.assert_close(found, results(exact, targets, POINTS)[0])
