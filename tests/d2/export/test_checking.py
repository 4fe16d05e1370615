"""What counts as the same result."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import Resize

from mask_former.d2.build.model import build_model
from mask_former.d2.errors import InputError
from mask_former.d2.export.checking import (
    Found,
    Region,
    Report,
    agreement,
    as_result,
    compare,
    evaluate,
)
from mask_former.d2.export.graph import ExportedModel
from mask_former.d2.predictor import Predictor
from mask_former.runtime import Information, Model
from tests.d2.export.test_graph import SEGMENTS
from tests.d2.tiny_models import make_cfg
from tests.small_runs import tiny_cfg


def found(*regions, numbers=()):
    labels = np.full((4, 5), -1)
    for region in reversed(regions):
        labels[region.mask] = region.label
    return Found(labels, numbers, regions)


def region(label, columns, score=0.5):
    mask = np.zeros((4, 5), bool)
    mask[:, :columns] = True
    return Region(label, mask, score)


def test_equal_results_agree():
    one = found(region(1, 3), numbers=[np.array([2.0, -4.0])])
    assert agreement(one, one) == Report(0.0, 1.0, 1, 1)


def test_differences_are_relative_to_the_largest_number():
    a, b = found(numbers=[np.array([2.0, -4.0])]), found(numbers=[np.array([2.2, -4.0])])
    assert agreement(a, b).difference == pytest.approx(0.05)


def test_regions_are_matched_by_class_and_overlap():
    expected = found(region(1, 4, 0.5), region(2, 2))
    other = found(region(1, 3, 0.7), region(0, 2))
    report = agreement(expected, other)
    assert (report.matched, report.regions) == (1, 2)
    assert report.difference == pytest.approx(0.2)
    assert report.pixels == pytest.approx(1 / 5 + 3 / 5)
    assert agreement(expected, found(region(1, 1))).matched == 0


@pytest.mark.parametrize(
    ("report", "task", "precision", "named"),
    [
        (Report(2e-4, 1, 0, 0), "semantic", "float32", r"differ by 2\.0e-04, above 0\.0001"),
        (Report(0, 0.9998, 0, 0), "panoptic", "float32", r"99\.980 % .* below 99\.99 %"),
        (Report(0.1, 0.998, 0, 0), "raw", "float16", r"99\.800 % .* below 99\.9 %"),
        (Report(0.1, 0.9, 98, 100), "instance", "float32", r"98 of 100 instances"),
    ],
)
def test_what_lies_beyond_a_bound_is_refused(report, task, precision, named):
    with pytest.raises(InputError, match=named):
        report.check(task, precision)


@pytest.mark.parametrize(
    ("report", "task", "precision"),
    [
        (Report(9e-5, 0.99995, 0, 0), "semantic", "float32"),
        (Report(0.1, 0.9995, 0, 0), "semantic", "float16"),
        (Report(1, 0.5, 0, 9), "panoptic", "int8"),
        (Report(1, 0.9, 99, 100), "instance", "float32"),
    ],
)
def test_what_lies_within_is_not(report, task, precision):
    report.check(task, precision)
    assert "ms exported" in str(report)


@pytest.fixture
def sides(tmp_path):
    """A predictor, and its graph in place of a file, for a task and changes of a configuration."""

    def make(task, cfg):
        torch.manual_seed(0)
        cfg.defrost()
        cfg.MODEL.WEIGHTS = str(tmp_path / "m.pth")
        torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
        predictor = Predictor(cfg)
        graph = ExportedModel(predictor.model, task).eval()
        options = getattr(predictor.model, "inference", None)
        things = sorted(options.thing_ids) if options else []
        names = [str(i) for i in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
        limits = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        info = Information(task, names, [], things, cfg.INPUT.FORMAT, None, *limits)

        def run(feed):
            with torch.no_grad():
                sizes = int(feed["height"]), int(feed["width"])
                return [x.numpy() for x in graph(torch.from_numpy(feed["image"]), *sizes)]

        return predictor, Model(run, info)

    return make


@pytest.mark.parametrize("task", ["semantic", "panoptic", "instance", "raw"])
def test_pictures_on_both_sides(sides, task):
    cfg = make_cfg({**SEGMENTS, "INPUT.MIN_SIZE_TEST": 64, "INPUT.FORMAT": "BGR"})
    predictor, model = sides(task, cfg)
    pictures = [
        np.random.RandomState(i).randint(0, 256, (*size, 3), np.uint8)
        for i, size in enumerate([(50, 70), (64, 64)])
    ]
    report = compare(predictor, model, pictures, task)
    report.check(task, "float32")
    assert report.matched == report.regions
    assert (report.regions > 0) == (task in ("panoptic", "instance"))
    assert min(report.eager, report.exported) > 0


def test_another_model_is_found_out(sides):
    cfg = make_cfg({**SEGMENTS, "INPUT.MIN_SIZE_TEST": 64})
    predictor, model = sides("raw", cfg)
    torch.nn.init.normal_(predictor.model.sem_seg_head.predictor.class_embed.weight)
    run = model.run
    model.run = lambda feed: [x[:, ::-1] for x in run(feed)]  # queries in another order
    report = compare(predictor, model, [np.zeros((64, 64, 3), np.uint8)], "raw")
    with pytest.raises(InputError, match=r"the exported model is not the model: .* numbers differ"):
        report.check("raw", "float32")


def test_points_on_a_data_set(sides, images, tmp_path):
    cfg = tiny_cfg(tmp_path)
    predictor, model = sides("semantic", cfg)
    predictor.aug = Resize((32, 64))
    model.info = model.info._replace(size=[32, 64])
    (points,) = evaluate(cfg, predictor, model, "camvid_sem_seg_val").values()
    assert points[0] == pytest.approx(points[1])
    assert 0 < points[0] < 100


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_tensors_become_the_models_results(sides, task):
    cfg = make_cfg({**SEGMENTS, "INPUT.MIN_SIZE_TEST": 64})
    predictor, model = sides(task, cfg)
    picture = np.random.RandomState(0).randint(0, 256, (64, 80, 3), np.uint8)
    expected, found = predictor(picture[:, :, ::-1]), as_result(model, picture)
    if task == "panoptic":
        assert torch.equal(found["panoptic_seg"][0], expected["panoptic_seg"][0])
        for a, b in zip(found["panoptic_seg"][1], expected["panoptic_seg"][1], strict=True):
            assert a == {**b, "score": pytest.approx(b["score"])}
        return
    a, b = found["instances"], expected["instances"]
    assert a.image_size == b.image_size
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
    same = (a.pred_masks == b.pred_masks).float().mean(dim=(1, 2)) > 0.999
    assert same.float().mean() > 0.9  # equal scores may change places
    torch.testing.assert_close(a.pred_boxes.tensor[same], b.pred_boxes.tensor[same], rtol=0, atol=1)


def test_segments_are_told_of_where_there_are_some():
    assert "100.0000 % of the pixels; a picture takes" in str(Report(0.0, 1.0, 0, 0))
    assert "100.0000 % of the pixels, 2 of 3 segments; a picture" in str(Report(0.0, 1.0, 2, 3))
