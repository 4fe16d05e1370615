"""Mean IoU on a case worked out by hand, of scores and of labels, and bad label maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
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
