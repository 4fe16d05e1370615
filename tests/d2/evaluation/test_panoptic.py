"""Panoptic quality on cases worked out by hand, bad ground truth, and nothing to count."""

import copy
import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

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


@pytest.fixture
def two_folders(sample, tmp_path, data_set, write_image) -> list[dict]:
    """Pictures of one name in two folders, with other labels, ids as text, and the least JSON."""
    samples, annotations = [], []
    for number, folder in enumerate(("a", "b"), start=1):
        (tmp_path / "p" / folder).mkdir()
        file = tmp_path / "p" / folder / "0001.png"
        write_image(file, [[[number, 0, 0]] * 2, [[9, 0, 0]] * 2])
        segments = [{"id": number, "category_id": number - 1}, {"id": 9, "category_id": 1}]
        entry = {"file_name": f"{folder}/0001.png", "image_id": f"00000{number}"}
        annotations.append({**entry, "segments_info": segments})
        own = [{**segment, "isthing": segment["category_id"] == 0} for segment in segments]
        samples.append(
            {
                "file_name": str(tmp_path / "images" / folder / "0001.jpg"),
                "image_id": number,
                "pan_seg_file_name": str(file),
                "segments_info": own,
            }
        )
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "sky"}]
    content = {"annotations": annotations, "categories": categories}
    (tmp_path / "p.json").write_text(json.dumps(content))
    MetadataCatalog.get(data_set).image_root = str(tmp_path / "images")
    return samples


def evaluated(evaluator, samples, panoptic_output) -> dict:
    evaluator.reset()
    for each in samples:
        evaluator.process([each], [panoptic_output(each)])
    return evaluator.evaluate()


def saved_names(tmp_path) -> list[str]:
    content = json.loads((tmp_path / "out/inference/predictions.json").read_text())
    return [entry["file_name"] for entry in content["annotations"]]


def test_pictures_of_one_name_and_the_least_json(tmp_path, two_folders, build, panoptic_output):
    result = evaluated(build("coco_panoptic_seg"), two_folders, panoptic_output)["panoptic_seg"]
    assert [result[key] for key in ("PQ", "PQ_th", "PQ_st")] == [100, 100, 100]
    assert saved_names(tmp_path) == ["a/0001.png", "b/0001.png"]


def test_pictures_without_an_id_are_told_apart_by_their_paths(two_folders, build, panoptic_output):
    for each in two_folders:
        del each["image_id"]
    evaluator = build("coco_panoptic_seg")
    assert evaluated(evaluator, two_folders, panoptic_output)["panoptic_seg"]["PQ"] == 100


def test_names_that_differ_are_as_they_were(tmp_path, sample, build, evaluate, panoptic_output):
    evaluate(build("coco_panoptic_seg"), sample, panoptic_output(sample))
    assert saved_names(tmp_path) == ["a.png"]


def test_an_id_of_two_pictures(two_folders, build, panoptic_output):
    two_folders[0]["image_id"] = 2
    with pytest.raises(InputError, match=r"2 pictures of data set .* have the image_id 2; give"):
        evaluated(build("coco_panoptic_seg"), two_folders, panoptic_output)


def test_areas_that_are_missing_are_counted(
    tmp_path, sample, build, evaluate, panoptic_output, write_panoptic_json
):
    output = panoptic_output(sample)
    output["panoptic_seg"] = (torch.tensor([[1, 1], [1, 2]]), output["panoptic_seg"][1])
    expected = evaluate(build("coco_panoptic_seg"), sample, copy.deepcopy(output))
    write_panoptic_json(tmp_path / "p.json", [{"id": i, "category_id": i - 1} for i in (1, 2)])
    assert evaluate(build("coco_panoptic_seg"), sample, output) == expected
    assert expected["panoptic_seg"]["PQ_th"] == pytest.approx(100 * 2 / 3)


def test_no_panoptic_json(tmp_path, data_set, two_folders, told, build, panoptic_output):
    del MetadataCatalog.get(data_set).panoptic_json
    evaluator = build("coco_panoptic_seg")
    outputs = [panoptic_output(each) for each in two_folders]
    evaluator.reset()
    for each, output in zip(two_folders, outputs, strict=True):
        bare = {key: each[key] for key in ("file_name", "image_id")}
        evaluator.process([bare], [output])
    assert evaluator.evaluate() == {}
    folder = tmp_path / "out/inference"
    content = json.loads((folder / "predictions.json").read_text())
    assert [entry["name"] for entry in content["categories"]] == ["cat", "sky"]
    assert [entry["isthing"] for entry in content["categories"]] == [1, 0]
    for entry in content["annotations"]:
        colors = np.asarray(Image.open(folder / "panoptic_predictions" / entry["file_name"]))
        assert set(colors[..., 0].ravel()) == {segment["id"] for segment in entry["segments_info"]}
    assert told() == [
        f"Data set {data_set} has no panoptic_json, so there is nothing to compare: no panoptic "
        f"results; the predictions are in {folder / 'panoptic_predictions'}"
    ]
