"""The end-to-end benchmark: our side works at a small size, and it says how to get the other."""

import sys

import pytest
import torch

from benchmarks import end_to_end, sides
from benchmarks.criterion import Shape
from benchmarks.measure import Comparison

TINY = sides.Setting("R50", "semantic", 2, "float32", "eager", 64, train=False)


def test_without_transformers_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(SystemExit, match=r'install the extra: pip install -e "\.\[benchmark\]"'):
        end_to_end.main([])


def test_given_prediction_is_sure_of_cells_that_share_the_image():
    given = sides.given_prediction(Shape(2, 64, 32, segments=3, classes=5, queries=6, channels=4))
    probs = given.class_logits[-1].softmax(-1)
    assert (probs[:, :3, :5].amax(-1) > 0.8).all()
    assert (probs[:, 3:, 5] > 0.8).all()
    masks = given.mask_logits() > 0  # [2, 6, 16, 8]
    assert (masks[:, :3].sum(1) == 1).all()
    assert not masks[:, 3:].any()


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_our_result_is_what_is_given(task):
    setting = TINY._replace(task=task)
    ours, images = sides.Ours(setting), sides.random_images(setting)
    given = sides.given_prediction(end_to_end.shape_of(setting, segments=2))
    with torch.no_grad():
        maps = ours.class_maps(ours.result(images, given))
        again = ours.class_maps(ours.model([{"image": image} for image in images]))
    for found, other, classes, masks in zip(
        maps, again, given.class_logits[-1], given.mask_logits(), strict=True
    ):
        quarter = classes[:2].argmax(-1)[masks[:2].float().argmax(0)]  # [16, 16]
        inner = found[1::4, 1::4]
        assert (inner == quarter).double().mean() > 0.95
        assert found.shape == (64, 64)
        assert not torch.equal(found, other)  # the model has its own head again


def test_our_logits_are_those_of_the_model():
    ours = sides.Ours(TINY)
    images = sides.normalise(sides.random_images(TINY))
    with torch.no_grad():
        class_logits, mask_logits = ours.forward(images)
        expected = ours.model.sem_seg_head(ours.model.backbone(images))
    torch.testing.assert_close(class_logits, expected.class_logits[-1])
    torch.testing.assert_close(
        torch.stack(mask_logits), expected.mask_logits(), rtol=1e-4, atol=1e-4
    )


def test_our_training_step_gives_gradients():
    setting = TINY._replace(train=True)
    ours, images = sides.Ours(setting), sides.random_images(setting)
    targets = sides.random_targets(end_to_end.shape_of(setting, segments=2), sides.device())
    ours.training_step(setting, images, targets)()
    assert ours.model.sem_seg_head.predictor.query_embed.weight.grad.abs().sum() > 0


def test_classes_of_segments():
    ids = torch.tensor([[0, 1], [2, 2]])
    assert sides.class_map(ids, {1: 7, 2: 3}).tolist() == [[-1, 7], [3, 3]]


def test_a_cell_relates_flops_to_the_rate_of_products(monkeypatch):
    monkeypatch.setattr(end_to_end, "compare", lambda *_: Comparison(500, 1000, 0.5, 1, 2))
    monkeypatch.setattr(end_to_end, "matrix_rate", lambda *_: 8e9)
    x = torch.ones(2)
    works = (lambda: x.tolist(), lambda: (x[0].item(), x.cpu()))
    row = end_to_end.cell(TINY, "forward", *works, pairs=5, flops=10**9)
    assert row["GFLOPs"] == 1
    assert (row["ours of rate"], row["theirs of rate"]) == (0.25, 0.125)
    assert (row["ours images/s"], row["theirs images/s"]) == (4, 2)
    assert (row["ours reads"], row["theirs reads"]) == (1, 2)


def test_summary_has_means_and_names_what_is_slower():
    def row(model, mode, ratio):
        cell = {"model": model, "task": "semantic", "work": "forward", "batch": 1}
        return cell | {"dtype": "float32", "mode": mode, "time ratio": ratio}

    text = end_to_end.summary([row("A", "eager", 0.5), row("B", "eager", 2.0), row("A", "c", 0.9)])
    assert text.splitlines() == [
        "float32 eager: geometric mean 1.000 of 2",
        "float32 c: geometric mean 0.900 of 1",
        "above 1: ['B', 'semantic', 'forward', 1, 'float32', 'eager'], 2.000",
    ]
