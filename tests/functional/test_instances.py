"""Instance inference against a slow, obvious reference, and what it reads from the device."""

import pytest
import torch

from mask_former.functional import lazy_masks as lazy
from mask_former.functional.instances import instance_inference
from mask_former.functional.lazy_masks import lazy_masks


def random_case(seed):
    """Every seed another mixture of confident and vague queries, without ties."""
    g = torch.Generator().manual_seed(seed)
    queries, classes = (int(torch.randint(1, n, (), generator=g)) for n in (9, 5))
    h, w = (int(x) for x in torch.randint(1, 8, (2,), generator=g))
    class_logits = (0.5, 3.0, 8.0)[seed % 3] * torch.randn(queries, classes + 1, generator=g)
    mask_logits = 3 * torch.randn(queries, h, w, generator=g)
    if seed % 7 == 0:  # masks that are nowhere likely
        mask_logits = -mask_logits.abs()
    things = {c for c in range(classes) if torch.rand((), generator=g) < 0.5}
    return class_logits, mask_logits, things


def slow_instances(class_logits, mask_logits, things, max_instances):
    """All pairs, one at a time; boxes by listing the pixels."""
    pairs = []
    for z, m in zip(class_logits.softmax(1), mask_logits.sigmoid(), strict=True):
        pairs += [(float(z[c]), c, m) for c in things]
    pairs.sort(key=lambda pair: -pair[0])
    found = []
    for prob, label, m in pairs[:max_instances]:
        pixels = [(y, x) for y in range(m.shape[0]) for x in range(m.shape[1]) if m[y, x] > 0.5]
        if pixels:
            ys, xs = zip(*pixels, strict=True)
            box = [min(xs), min(ys), max(xs) + 1, max(ys) + 1]
            score = prob * sum(float(m[p]) for p in pixels) / len(pixels)
            found.append((score, label, box, sorted(pixels)))
    return sorted(found, key=lambda instance: (-round(instance[0], 5), instance[1:]))


def test_instances_equal_the_slow_reference_on_many_random_cases():
    counts = set()
    for seed in range(400):
        class_logits, mask_logits, things = random_case(seed)
        result = instance_inference(class_logits, mask_logits, things, max_instances=seed % 12)
        ours = [
            (float(score), int(label), box.tolist(), sorted(map(tuple, mask.nonzero().tolist())))
            for label, score, mask, box in zip(*result, strict=True)
        ]
        assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
        ours.sort(key=lambda instance: (-round(instance[0], 5), instance[1:]))
        expected = slow_instances(class_logits, mask_logits, sorted(things), seed % 12)
        assert [i[1:] for i in ours] == [i[1:] for i in expected], seed
        assert [i[0] for i in ours] == pytest.approx([i[0] for i in expected], abs=1e-5)
        counts.add(len(ours))
    assert len(counts) >= 8


def test_boxes_are_tight_and_no_mask_is_empty():
    for seed in range(50):
        class_logits, mask_logits, _ = random_case(seed)
        classes = range(class_logits.shape[1] - 1)
        result = instance_inference(class_logits, mask_logits, classes, 100)
        assert result.masks.flatten(1).any(dim=1).all()
        for mask, box in zip(result.masks, result.boxes.int().tolist(), strict=True):
            x0, y0, x1, y1 = box
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            assert mask[y0].any() and mask[y1 - 1].any()  # noqa: PT018
            assert mask[:, x0].any() and mask[:, x1 - 1].any()  # noqa: PT018


@pytest.mark.parametrize(("most", "found"), [(0, 0), (3, 3), (-1, 8)])
def test_the_number_of_instances(most, found):
    """Negative as in Detectron2: all pairs of 4 queries and 2 things."""
    class_logits, mask_logits = torch.randn(4, 4), torch.full((4, 5, 6), 2.0)
    assert len(instance_inference(class_logits, mask_logits, {0, 2}, most).labels) == found


def test_a_thing_that_is_no_class_is_told():
    with pytest.raises(ValueError, match=r"thing_ids are \[1, 3\], but the classes are 0 to 2"):
        instance_inference(torch.randn(4, 4), torch.randn(4, 5, 6), {1, 3}, 10)


def test_no_things_give_no_instances():
    class_logits, mask_logits, _ = random_case(1)
    result = instance_inference(class_logits, mask_logits, (), 100)
    assert [len(x) for x in result] == [0, 0, 0, 0]
    assert result.masks.shape[1:] == mask_logits.shape[1:]


def test_bands_and_resizing_change_nothing(monkeypatch):
    monkeypatch.setattr(lazy, "CACHED", 1)  # a row each
    g = torch.Generator().manual_seed(0)
    class_logits = torch.randn(6, 4, generator=g)
    embeds = torch.randn(6, 5, generator=g), torch.randn(5, 7, 6, generator=g)
    masks = lazy_masks(*embeds, (28, 24), (27, 21), (33, 40))
    found = instance_inference(class_logits, masks, {0, 2}, 9)
    expected = instance_inference(class_logits, masks.formed().rows(0, 33), {0, 2}, 9)
    assert len(found.labels) > 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
