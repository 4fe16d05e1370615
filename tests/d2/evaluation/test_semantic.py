"""Mean IoU on a case worked out by hand, of scores and of labels, and bad label maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from mask_former.d2.errors import InputError


def scores(labels: list[list[int]]) -> dict:
    """A semantic result whose best class of each pixel is given."""
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels), 2)
    return {"sem_seg": one_hot.permute(2, 0, 1).float()}


def test_mean_iou(tmp_path, sample, build, evaluate):
    # Labels 0 1 / 1 ignored. Class 0: 1 right of 2 in the union; class 1: 1 of 2.
    result = evaluate(build("sem_seg"), sample, scores([[0, 0], [1, 1]]))["sem_seg"]
    assert result["mIoU"] == pytest.approx(50)
    assert result["pACC"] == pytest.approx(100 * 2 / 3)
    written = json.loads((tmp_path / "out" / "inference" / "sem_seg_predictions.json").read_text())
    masks = {entry["category_id"]: mask_util.decode(entry["segmentation"]) for entry in written}
    assert {label: mask.tolist() for label, mask in masks.items()} == {
        0: [[1, 1], [0, 0]],
        1: [[0, 0], [1, 1]],
    }


def test_labels_count_as_their_scores(sample, build, evaluate):
    evaluator = build("sem_seg")
    given = {"sem_seg": torch.tensor([[0, 0], [1, 1]])}
    result = evaluate(evaluator, sample, given)["sem_seg"]
    assert result == evaluate(evaluator, sample, scores([[0, 0], [1, 1]]))["sem_seg"]
    assert given["sem_seg"].shape == (2, 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1], [1, 7]], "has ids 7, but the classes are 0 to 1 and the ignore label is 9"),
        ([[0, 1, 1], [1, 1, 1]], "is 3x2 pixels"),
        ([[[0, 0, 0]] * 2] * 2, "has 3 channels"),
    ],
)
def test_bad_labels(sample, labels, message, build, evaluate, write_image):
    write_image(sample["sem_seg_file_name"], labels)
    with pytest.raises(InputError, match=message) as caught:
        evaluate(build("sem_seg"), sample, scores([[0, 0], [0, 0]]))
    assert sample["sem_seg_file_name"] in str(caught.value)


def test_missing_labels(sample, build, evaluate):
    Path(sample["sem_seg_file_name"]).unlink()
    with pytest.raises(InputError, match=r"a\.png does not exist"):
        evaluate(build("sem_seg"), sample, scores([[0, 0], [0, 0]]))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_label_maps_without_a_class(sample, data_set, told, build, evaluate, write_image):
    write_image(sample["sem_seg_file_name"], [[9, 9], [9, 9]])
    result = evaluate(build("sem_seg"), sample, scores([[0, 0], [1, 1]]))["sem_seg"]
    assert np.isnan([result["mIoU"], result["pACC"], result["IoU-cat"]]).all()
    line = f"No pixel of the label maps of {data_set} has a class: its semantic results are NaN"
    assert told() == [line]


@pytest.mark.parametrize("given", [float("nan"), float("inf")])
def test_scores_that_are_not_finite(sample, build, evaluate, given):
    scores = torch.zeros(2, 2, 2)
    scores[1, 0, 1] = given
    with pytest.raises(InputError, match=r"a\.jpg that are not finite; .* MODEL.WEIGHTS"):
        evaluate(build("sem_seg"), sample, {"sem_seg": scores})


def test_no_label_maps(tmp_path, sample, data_set, told, build, evaluate):
    del sample["sem_seg_file_name"]
    del MetadataCatalog.get(data_set).ignore_label
    labels = torch.tensor([[0, 1], [1, 1]])
    assert evaluate(build("sem_seg"), sample, {"sem_seg": labels}) == {}
    path = tmp_path / "out/inference/sem_seg_predictions.json"
    entries = json.loads(path.read_text())
    assert [(e["file_name"], e["category_id"]) for e in entries] == [
        (sample["file_name"], 0),
        (sample["file_name"], 1),
    ]
    assert np.array_equal(mask_util.decode(entries[1]["segmentation"]), labels.numpy())
    assert told() == [
        f"Data set {data_set} has no label maps, so there is nothing to compare: no semantic "
        f"results; the predictions are in {path}"
    ]


def test_some_pictures_without_label_maps(sample, data_set, build):
    DatasetCatalog.remove(data_set)
    DatasetCatalog.register(data_set, lambda: [sample, {"file_name": "b.jpg"}])
    with pytest.raises(InputError, match=r"1 of the 2 pictures .* such as b\.jpg"):
        build("sem_seg")


@pytest.mark.parametrize("key", ["ignore_label", "stuff_classes"])
def test_metadata_that_are_missing(data_set, build, key):
    delattr(MetadataCatalog.get(data_set), key)
    with pytest.raises(InputError, match=rf"the metadata of data set {data_set} have no {key}"):
        build("sem_seg")
