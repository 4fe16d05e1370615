"""Panoptic quality on cases worked out by hand, bad ground truth, and nothing to count."""

import json

import numpy as np
import pytest
import torch

from mask_former.d2.errors import InputError


@pytest.mark.parametrize("with_file_name", [True, False])
def test_panoptic_quality(sample, with_file_name, build, evaluate, panoptic_output):
    # The thing is found with IoU 2/3, one of the sky's two pixels is: an IoU of 1/2 is no match.
    output = (torch.tensor([[1, 1], [1, 2]]), panoptic_output(sample)["panoptic_seg"][1])
    if not with_file_name:
        del sample["pan_seg_file_name"]
    evaluator = build("coco_panoptic_seg")
    result = evaluate(evaluator, sample, {"panoptic_seg": output})["panoptic_seg"]
    assert result["PQ_th"] == pytest.approx(100 * 2 / 3)
    assert result["PQ_st"] == pytest.approx(0)
    assert result["PQ"] == pytest.approx(100 / 3)


def test_panoptic_map_that_does_not_match_its_json(
    sample, build, evaluate, write_image, panoptic_output
):
    output = panoptic_output(sample)
    write_image(sample["pan_seg_file_name"], [[[1, 0, 0]] * 2, [[5, 0, 0]] * 2])
    with pytest.raises(InputError, match=r"a\.png has segment ids 5"):
        evaluate(build("coco_panoptic_seg"), sample, output)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_image_at_all(data_set, told, build):
    evaluator = build("ade20k_panoptic_seg")
    evaluator.reset()
    assert set(evaluator.evaluate()) == {"sem_seg"}
    assert told()[1:] == [f"No image of {data_set} was predicted: no panoptic result"]


def test_no_segment_at_all(
    tmp_path, sample, data_set, told, build, evaluate, write_image, write_panoptic_json
):
    write_image(sample["pan_seg_file_name"], [[[0, 0, 0]] * 2] * 2)
    write_panoptic_json(tmp_path / "p.json", [])
    sample["segments_info"] = []
    output = {"panoptic_seg": (torch.zeros(2, 2, dtype=torch.int32), [])}
    result = evaluate(build("coco_panoptic_seg"), sample, output)["panoptic_seg"]
    assert len(result) == 9
    assert np.isnan(list(result.values())).all()
    names = ("segment", "thing", "stuff")
    assert told() == [f"{data_set} has no {n}, true or predicted: its PQ is NaN" for n in names]


def test_things_alone(
    tmp_path,
    sample,
    data_set,
    told,
    build,
    evaluate,
    write_image,
    write_panoptic_json,
    panoptic_output,
):
    write_image(sample["pan_seg_file_name"], [[[1, 0, 0]] * 2, [[0, 0, 0]] * 2])
    del sample["segments_info"][1]
    (segment,) = sample["segments_info"]
    truth = {key: value for key, value in segment.items() if key != "isthing"}
    write_panoptic_json(tmp_path / "p.json", [truth])
    evaluator = build("coco_panoptic_seg")
    result = evaluate(evaluator, sample, panoptic_output(sample))["panoptic_seg"]
    assert result["PQ"] == result["PQ_th"] == result["SQ_th"] == result["RQ"] == 100
    assert np.isnan(result["PQ_st"])
    assert told() == [f"{data_set} has no stuff, true or predicted: its PQ is NaN"]
    saved = json.loads((tmp_path / "out" / "inference" / "predictions.json").read_text())
    assert saved["annotations"][0]["segments_info"][0]["category_id"] == 0


def test_image_without_prediction(sample, build, evaluate, panoptic_output):
    output = panoptic_output(sample)
    with pytest.raises(InputError, match=r"1 images of .*p\.json have no prediction, such as 1;"):
        evaluate(build("coco_panoptic_seg"), {**sample, "image_id": 2}, output)
