"""Bipartite matching against brute force over all assignments, a case by hand, and laws."""

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from mask_former.functional.matching import (
    bipartite_matching,
    fixed_matching,
    matching_cost,
    within_image,
)
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

WEIGHTS = LossWeights()


def random_case(segments, layers=2, queries=5, classes=3, size=(4, 6), factor=2, seed=0):
    """A prediction of len(segments) images and targets with that many segments each."""
    g = torch.Generator().manual_seed(seed)
    images, dim = len(segments), 7
    prediction = MaskPrediction(
        3 * torch.randn(layers, images, queries, classes + 1, generator=g),
        torch.randn(layers, images, queries, dim, generator=g),
        torch.randn(images, dim, *size, generator=g),
    )
    height, width = (factor * side for side in size)
    targets = [
        MaskTarget(
            torch.randint(0, classes, (n,), generator=g),
            torch.rand(n, height, width, generator=g) < 0.4,
        )
        for n in segments
    ]
    return prediction, targets


def pairs(matches, layer, image):
    chosen = (matches.layer == layer) & (matches.image == image)
    return list(zip(matches.query[chosen].tolist(), matches.target[chosen].tolist(), strict=True))


def slow_cost(class_logits, mask_logits, target, weights):
    """The cost of section 3.2 for one layer of one image, one pair at a time."""
    probs = class_logits.softmax(-1)
    masks = F.interpolate(target.masks[:, None].float(), mask_logits.shape[-2:], mode="nearest")[
        :, 0
    ]
    cost = torch.zeros(len(class_logits), len(target.labels))
    for q, logits in enumerate(mask_logits):
        p = logits.sigmoid()
        for n, (label, g) in enumerate(zip(target.labels, masks, strict=True)):
            bce = F.binary_cross_entropy_with_logits(logits, g, reduction="none")
            p_t, alpha_t = p * g + (1 - p) * (1 - g), 0.25 * g + 0.75 * (1 - g)
            focal = (alpha_t * (1 - p_t) ** 2 * bce).mean()
            dice = 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
            cost[q, n] = (
                weights.mask * focal
                - weights.classification * probs[q, label]
                + weights.dice * dice
            )
    return cost


@pytest.mark.parametrize("seed", range(5))
def test_cost_is_the_plain_formula(seed):
    prediction, targets = random_case([3], seed=seed)
    weights = LossWeights(0.7, 11.0, 3.0)
    cost = matching_cost(
        prediction.class_logits[:, 0],
        prediction.mask_embed[:, 0],
        prediction.pixel_embed[0],
        targets[0],
    ).weighted_sum(weights)
    for layer in range(2):
        expected = slow_cost(
            prediction.class_logits[layer, 0],
            prediction.mask_logits(layer)[0],
            targets[0],
            weights,
        )
        torch.testing.assert_close(cost[layer], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_assignment_is_the_best_of_all(seed):
    segments = [(3, 5), (1, 0), (4, 2)][seed % 3]
    prediction, targets = random_case(segments, queries=4 + seed % 2, seed=seed)
    matches = bipartite_matching(prediction, targets, WEIGHTS)
    for layer in range(2):
        for image, target in enumerate(targets):
            cost = slow_cost(
                prediction.class_logits[layer, image],
                prediction.mask_logits(layer)[image],
                target,
                WEIGHTS,
            )
            found = pairs(matches, layer, image)
            assert len(found) == min(cost.shape)
            assert [q for q, _ in found] == sorted(q for q, _ in found)
            small, large = sorted(cost.shape)
            table = cost if cost.shape[0] <= cost.shape[1] else cost.T
            best = min(
                (
                    sum(table[i, j] for i, j in enumerate(order))
                    for order in permutations(range(large), small)
                ),
                default=0,
            )
            assert float(sum(cost[q, n] for q, n in found)) == pytest.approx(float(best), abs=1e-4)


def test_example_by_hand():
    # One-hot embeddings make any masks.
    masks = torch.tensor(
        [[[2.0, -2.0], [2.0, -2.0]], [[-1.0, 1.0], [-1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    )
    prediction = MaskPrediction(
        torch.tensor([[[[1.0, 0, 0], [0, 2.0, 0], [0, 0, 1.0]]]]),
        torch.eye(3)[None, None],
        masks[None],
    )
    left = torch.zeros(4, 4, dtype=torch.bool)
    left[:, :2] = True
    target = MaskTarget(torch.tensor([1, 0]), torch.stack([~left, left]))
    matches = bipartite_matching(prediction, [target], WEIGHTS)
    assert pairs(matches, 0, 0) == [(0, 1), (1, 0)]


def test_order_and_counts():
    prediction, targets = random_case([2, 0, 9], layers=3, queries=4)
    matches = bipartite_matching(prediction, targets, WEIGHTS)
    assert matches.per_image == [3 * 2, 0, 3 * 4]
    order = list(
        zip(matches.image.tolist(), matches.layer.tolist(), matches.query.tolist(), strict=True)
    )
    assert order == sorted(order)
    assert len(order) == sum(matches.per_image)


def test_no_segment_anywhere():
    prediction, targets = random_case([0, 0])
    matches = bipartite_matching(prediction, targets, WEIGHTS)
    assert matches.per_image == [0, 0]
    assert all(index.shape == (0,) and index.dtype == torch.int64 for index in matches[:4])


def test_order_of_segments_changes_names_only():
    prediction, targets = random_case([4], seed=3)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = [MaskTarget(targets[0].labels[order], targets[0].masks[order])]
    matches = bipartite_matching(prediction, targets, WEIGHTS)
    others = bipartite_matching(prediction, shuffled, WEIGHTS)
    renamed = [(q, int(order[n])) for q, n in pairs(others, 1, 0)]
    assert renamed == pairs(matches, 1, 0)


def test_images_and_layers_do_not_influence_each_other():
    prediction, targets = random_case([2, 3], layers=3)
    matches = bipartite_matching(prediction, targets, WEIGHTS)
    for image in range(2):
        alone = MaskPrediction(
            prediction.class_logits[1:2, image : image + 1],
            prediction.mask_embed[1:2, image : image + 1],
            prediction.pixel_embed[image : image + 1],
        )
        single = bipartite_matching(alone, targets[image : image + 1], WEIGHTS)
        assert pairs(single, 0, 0) == pairs(matches, 1, image)


def test_costs_reach_the_cpu_in_one_transfer(monkeypatch):
    """On a CPU nothing moves, so the calls that would move something are counted."""
    calls = []
    for name in ("cpu", "item", "tolist", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, name=name, original=original, **kwargs):
            calls.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    prediction, targets = random_case([2, 0, 3], layers=4)
    bipartite_matching(prediction, targets, WEIGHTS)
    assert calls == ["cpu", "numpy"]


@pytest.mark.parametrize(
    ("field", "term"), [("class_logits", "classification"), ("mask_embed", "mask")]
)
def test_a_non_finite_cost_is_named(field, term):
    prediction, targets = random_case([2, 3], layers=3)
    getattr(prediction, field)[1, 1, 0] = float("nan")
    with pytest.raises(ValueError, match=f"the {term} term .* image 1 of the batch, .* layer 1;"):
        bipartite_matching(prediction, targets, WEIGHTS)


def test_an_overflow_of_the_weighted_sum_is_named():
    prediction, targets = random_case([2])
    with pytest.raises(ValueError, match="overflows"):
        bipartite_matching(prediction, targets, LossWeights(mask=1e39))


def of_classes(prediction, classes):
    """The same number of layers, images and queries, with other classes."""
    shape = prediction.class_logits.shape[:-1]
    return prediction._replace(class_logits=torch.zeros(*shape, classes + 1))


def labelled(*classes_of_image):
    """Targets with the given classes; the masks do not count."""
    return [
        MaskTarget(torch.tensor(classes, dtype=torch.int64), torch.zeros(len(classes), 8, 12) > 0)
        for classes in classes_of_image
    ]


def test_fixed_matching_gives_every_class_its_query():
    prediction = of_classes(random_case([0, 0, 0], layers=2, queries=5)[0], 5)
    matches = fixed_matching(prediction, labelled([3, 0, 4], [], [1]))
    for layer in range(2):
        assert pairs(matches, layer, 0) == [(0, 1), (3, 0), (4, 2)]
        assert pairs(matches, layer, 1) == []
        assert pairs(matches, layer, 2) == [(1, 0)]
    assert matches.per_image == [6, 0, 2]
    assert all(index.dtype == torch.int64 for index in matches[:4])
    order = list(
        zip(matches.image.tolist(), matches.layer.tolist(), matches.query.tolist(), strict=True)
    )
    assert order == sorted(order)


def test_fixed_matching_without_segments():
    prediction, _ = random_case([0])
    matches = fixed_matching(prediction, labelled([]))
    assert matches.per_image == [0]
    assert all(index.shape == (0,) and index.dtype == torch.int64 for index in matches[:4])


def test_fixed_matching_asks_for_labels_once(monkeypatch):
    """On a CPU nothing moves, so the calls that would move something are counted."""
    calls = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: calls.append(1) or original(self))
    prediction = of_classes(random_case([0, 0, 0])[0], 5)
    fixed_matching(prediction, labelled([3, 0, 4], [], [1]))
    assert calls == [1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (([1], [2, 0, 2]), "image 1 of the batch has 2 segments of class 2; .* bipartite"),
        (([5],), "image 0 of the batch has class 5, but there are only 5 queries"),
        (([1], [6]), "image 1 of the batch has a segment of class 6, but the classes are 0 to 5"),
    ],
)
def test_fixed_matching_refuses_what_is_not_semantic(classes, message):
    prediction = of_classes(random_case([0, 0], queries=5)[0], 6)
    with pytest.raises(ValueError, match=message):
        fixed_matching(prediction, labelled(*classes))


def terms(prediction, target, image=0):
    """The terms of the cost of one image, [3, L, Q, N]."""
    return torch.stack(
        matching_cost(
            prediction.class_logits[:, image],
            prediction.mask_embed[:, image],
            prediction.pixel_embed[image],
            target,
        )
    )


def embed_padded(prediction, target, cells, pixels, value):
    """The same image in a larger batch, with ``value`` in the cells that are padding alone."""
    h, w = prediction.pixel_embed.shape[-2:]
    maps = F.pad(prediction.pixel_embed, (0, cells[1] - w, 0, cells[0] - h), value=value)
    height, width = target.masks.shape[-2:]
    margin = (0, pixels[1] - width, 0, pixels[0] - height)
    masks = F.pad(target.masks, margin, value=value == 1e4)
    valid = target.valid if target.valid is None else F.pad(target.valid, margin, value=True)
    padded = MaskTarget(target.labels, masks, valid, (height, width))
    return prediction._replace(pixel_features=maps), padded


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("value", [0.0, 1e4, float("nan")])
def test_padding_takes_part_in_no_cost(value, ignored):
    prediction, (target,) = random_case([3])
    if ignored:
        valid = torch.rand(8, 12, generator=torch.Generator().manual_seed(1)) < 0.6
        target = target._replace(valid=valid)
    padded = embed_padded(prediction, target, (7, 10), (14, 20), value)
    assert torch.equal(terms(*padded), terms(prediction, target))


def test_cost_with_ignored_pixels_is_that_of_the_others_alone():
    prediction, (target,) = random_case([3])
    g = torch.Generator().manual_seed(2)
    small = torch.rand(4, 6, generator=g) < 0.6
    valid = small.repeat_interleave(2, 0).repeat_interleave(2, 1)
    # The cells that count, as an image of one row.
    alone = prediction._replace(pixel_features=prediction.pixel_embed[:, :, small][:, :, None])
    row = MaskTarget(target.labels, target.masks[:, ::2, ::2][:, small][:, None])
    found = terms(prediction, target._replace(valid=valid))
    torch.testing.assert_close(found, terms(alone, row), rtol=1e-5, atol=1e-6)
    noise = target.masks ^ ~valid
    assert torch.equal(terms(prediction, MaskTarget(target.labels, noise, valid)), found)


def test_the_last_cell_may_reach_into_the_padding():
    """7 x 11 pixels of 8 x 12 are image: every cell counts, no pixel beyond does."""
    prediction, (target,) = random_case([3])
    maps, part = within_image(prediction.pixel_embed[0], target._replace(size=(7, 11)))
    assert maps.shape[-2:] == (4, 6)
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[:7, :11] = True
    assert torch.equal(part.valid, expected)
    ignored = torch.ones(8, 12, dtype=torch.bool)
    ignored[0] = False
    _, part = within_image(maps, target._replace(size=(7, 11), valid=ignored))
    assert torch.equal(part.valid, expected & ignored)
    assert ignored[7:].all()  # the caller's is as it was


def test_a_full_size_changes_nothing():
    prediction, (target,) = random_case([3])
    maps, part = within_image(prediction.pixel_embed[0], target._replace(size=(8, 12)))
    assert torch.equal(maps, prediction.pixel_embed[0])
    assert torch.equal(part.masks, target.masks)
    assert part.valid is None
    assert part.size is None
