"""A survey's page has its pictures inside; its text fits on a screen or two."""

import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from mask_former.d2.data.description import Description, read_description
from mask_former.d2.data.findings import Finding
from mask_former.d2.data.survey import survey
from mask_former.d2.visualization.survey_overlays import class_colors, draw_labels
from mask_former.d2.visualization.survey_report import text, write_report

SIZE = (420, 400)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def described(folder: Path, **content: object) -> Description:
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "s", **content}, sort_keys=False))
    return read_description(str(folder / "dataset.yaml"))


@pytest.fixture
def halves(tmp_path: Path) -> Description:
    """A grey picture whose left half is a red class, its right half one without a colour."""
    save(tmp_path / "images/<a>.png", np.full((*SIZE, 3), 100, np.uint8))
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 200:] = 7
    save(tmp_path / "labels/<a>.png", labels)
    classes = [{"name": "r & d", "color": [255, 0, 0]}, {"name": "rest", "values": [7, 8]}]
    splits = {"train": {"images": "images", "labels": "labels"}}
    return described(tmp_path, classes=classes, splits=splits)


def test_the_page(halves, tmp_path):
    found = survey(halves, str(tmp_path / "out"))

    write_report(found, tmp_path / "out" / "report.html")

    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>Data set s</h1>" in page
    assert "r &amp; d" in page
    assert "&lt;a&gt;.png (s_train)" in page
    assert "<a>" not in page
    assert "http" not in page  # nothing is fetched
    assert "50.00% in 1" in page
    assert "Warning: pictures of one colour: 1." in page
    assert page.count("<tr>") == 5  # two tables, with a split and with two classes
    (jpeg,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(jpeg), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (*SIZE, 3)


def test_semantic_labels_are_drawn(halves, tmp_path):
    (shown,) = survey(halves, str(tmp_path / "out")).shown

    drawing = draw_labels(halves, shown.sample)

    red = 0.8 * np.array([255, 0, 0]) + 0.2 * 100
    assert np.abs(drawing[20, 20] - red).max() <= 1
    other = 0.8 * np.array(class_colors(halves)[1]) + 0.2 * 100
    assert np.abs(drawing[20, 380] - other).max() <= 1
    assert np.ptp(drawing[:, :200].reshape(-1, 3), axis=0).min() > 100  # a name


def test_values_that_are_not_listed_are_left_bare(halves, tmp_path):
    labels = np.array(Image.open(tmp_path / "labels/<a>.png"))
    labels[:, 300:] = 9
    save(tmp_path / "labels/<a>.png", labels)
    found = survey(halves, str(tmp_path / "out"))
    assert found.has_errors
    assert draw_labels(halves, found.shown[0].sample)[20, 380].tolist() == [100] * 3

    classes = [entry._replace(values=(i,)) for i, entry in enumerate(halves.classes)]
    plain = halves._replace(classes=tuple(classes), ignore=(255,))  # files hold ids
    (shown,) = survey(plain, str(tmp_path / "out")).shown
    assert draw_labels(plain, shown.sample)[20, 380].tolist() == [100] * 3


def test_a_large_picture_is_shrunk(tmp_path):
    save(tmp_path / "images/a.png", np.full((640, 1280, 3), 100, np.uint8))
    save(tmp_path / "labels/a.png", np.zeros((640, 1280), np.uint8))
    splits = {"train": {"images": "images", "labels": "labels"}}
    description = described(tmp_path, classes=["x", "y"], splits=splits)
    (shown,) = survey(description, str(tmp_path / "out")).shown

    assert draw_labels(description, shown.sample).shape[1] <= 1000


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_segments_are_drawn(tmp_path, task):
    save(tmp_path / "images/a.png", np.full((*SIZE, 3), 100, np.uint8))
    ids = np.zeros((*SIZE, 3), np.uint8)
    ids[:, :200, 0] = 1
    save(tmp_path / "pan/a.png", ids)
    segment = {"id": 1, "image_id": 1, "category_id": 4, "iscrowd": 0, "area": 1}
    polygon = [[0, 0, 200, 0, 200, 420, 0, 420]]
    panoptic = {"image_id": 1, "file_name": "a.png", "segments_info": [segment]}
    instance = {**segment, "segmentation": polygon, "bbox": [0, 0, 200, 420]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIZE[1], "height": SIZE[0]}],
        "annotations": [panoptic if task == "panoptic" else instance],
        "categories": [{"id": 4, "name": "car"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    split = {"images": "images", "json": "a.json"} | (
        {"panoptic": "pan"} if task == "panoptic" else {}
    )
    classes = [{"name": "car", "id": 4, "thing": True, "color": [0, 255, 0]}]
    description = described(tmp_path, task=task, classes=classes, splits={"val": split})
    found = survey(description, str(tmp_path / "out"))

    drawing = draw_labels(description, found.shown[0].sample)

    red, green, blue = drawing[20, 20].tolist()
    assert green > 150 > 100 > red == blue
    assert drawing[20, 380].tolist() == [100, 100, 100]
    assert "100.00% in 1 (1)" in text(found)


def test_the_text_of_little(halves, tmp_path):
    lines = text(survey(halves, str(tmp_path / "out"))).splitlines()

    assert lines[0] == (
        "s: semantic, 2 classes, 1 pictures in 1 splits; 0 kinds of errors, 1 of warnings: it can "
        "be trained"
    )
    assert lines[4].split()[:4] == ["train", "1", "1", "1"]
    assert "1.0" not in lines[4]
    assert "2.0 / 2 / 2" in lines[4]
    assert lines[-2].startswith("warning: pictures of one colour: 1; see whether")
    assert lines[-1].endswith("images/<a>.png")


def test_the_text_of_much(halves, tmp_path):
    found = survey(halves, str(tmp_path / "out"))
    (split,) = found.splits
    finding = Finding("labels", True, "labels", 2, ("x", "y"), "mend them")
    counts = tuple(split.classes[0]._replace(pixels=1000 - i) for i in range(200))
    much = found._replace(
        description=halves._replace(
            classes=tuple(halves.classes[0]._replace(name=f"c{i}") for i in range(200))
        ),
        splits=(split._replace(classes=counts),) * 20,
        findings=(finding,) * 30,
    )

    shown = text(much)

    assert len(shown.splitlines()) <= 60
    assert "mend the errors before training" in shown
    assert "… and 12 more splits" in shown
    assert "… and 180 more classes, which have more pixels" in shown
    assert "… and 20 more findings" in shown
    assert shown.index("c199") < shown.index("c180")
