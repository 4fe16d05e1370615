"""Descriptions of data sets: what they register, read and refuse."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import ExifTags, Image

from mask_former.d2.config import get_mask_former_cfg, load_config
from mask_former.d2.data.checks import check_dataset
from mask_former.d2.data.datasets import register_descriptions
from mask_former.d2.data.description import read_description
from mask_former.d2.data.mappers import (
    MaskFormerInstanceDatasetMapper,
    MaskFormerPanopticDatasetMapper,
    MaskFormerSemanticDatasetMapper,
)
from mask_former.d2.errors import InputError
from mask_former.d2.evaluation.choice import build_evaluator

Describe = Callable[..., Path]
STREET = {
    "name": "street",
    "classes": ["road", "sky", {"name": "car", "color": [0, 0, 142], "values": [13, 14]}],
    "ignore": [255],
    "splits": {"train": {"images": "images/train", "labels": "labels/train"}},
}
PARTS = {"thing": True, "color": [1, 2, 3]}


@pytest.fixture
def describe(tmp_path: Path) -> Iterator[Describe]:
    """Writes a description; what it registers is taken away again."""
    before = set(DatasetCatalog.list())

    def write(file: str = "dataset.yaml", **changes: Any) -> Path:
        content = {**STREET, **changes}
        path = tmp_path / file
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
        return path

    yield write
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def register(*files: Path) -> None:
    cfg = get_mask_former_cfg()
    cfg.DATASETS.DESCRIPTIONS = [str(file) for file in files]
    register_descriptions(cfg)


def write_pair(save, stem: str, labels: np.ndarray, extension: str = "jpg") -> None:
    save(f"images/train/{stem}.{extension}", np.zeros((*labels.shape[:2], 3), np.uint8))
    save(f"labels/train/{stem}.png", labels)


def semantic(sample: dict) -> np.ndarray:
    options = {"augmentations": [], "image_format": "RGB", "num_classes": 3, "ignore_label": 255}
    return MaskFormerSemanticDatasetMapper(**options)(sample)["sem_seg"].numpy()


def test_labels_are_read_as_they_lie(describe, save):
    write_pair(save, "town/a", np.array([[0, 1, 13, 14, 255]], np.uint8), "PNG")
    register(describe())

    (sample,) = DatasetCatalog.get("street_train")

    assert semantic(sample).tolist() == [[0, 1, 2, 2, 255]]
    metadata = MetadataCatalog.get("street_train")
    assert metadata.stuff_classes == ["road", "sky", "car"]
    assert metadata.ignore_label == 255
    assert "stuff_dataset_id_to_contiguous_id" not in metadata.as_dict()


@pytest.mark.parametrize(
    ("background", "expected"),
    [("ignore", [0, 1, 2, 2, 255, 255]), ("class", [0, 1, 2, 2, 255, 3])],
)
def test_values_that_are_not_listed(describe, save, background, expected):
    write_pair(save, "a", np.array([[0, 1, 13, 14, 255, 77]], np.uint8))
    register(describe(background=background, name=f"street_{background}"))
    options = {"augmentations": [], "image_format": "RGB", "num_classes": 4, "ignore_label": 255}
    mapper = MaskFormerSemanticDatasetMapper(**options)

    (sample,) = DatasetCatalog.get(f"street_{background}_train")

    assert mapper(sample)["sem_seg"].tolist() == [expected]


def test_a_value_that_is_not_listed_is_refused(describe, save):
    write_pair(save, "a", np.array([[0, 2, 77]], np.uint8))
    register(describe(ignore=None))

    with pytest.raises(InputError, match=r"labels/train/a.png has values 2, 77 that the descr"):
        semantic(DatasetCatalog.get("street_train")[0])


@pytest.mark.parametrize("palette", [False, True])
def test_colours_are_read(describe, save, palette):
    colors = np.array([[[128, 64, 0], [0, 0, 142], [9, 9, 9], [0, 0, 0]]], np.uint8)
    picture = Image.fromarray(colors)
    save("images/train/a.jpg", picture)
    save("labels/train/a.png", picture.quantize(4) if palette else picture)
    classes = [
        {"name": "road", "color": [128, 64, 0]},
        {"name": "sky", "color": [1, 1, 1], "values": [[9, 9, 9]]},
        {"name": "car", "color": [0, 0, 142]},
    ]
    register(describe(classes=classes, encoding="colors", ignore=[[0, 0, 0]]))

    assert semantic(DatasetCatalog.get("street_train")[0]).tolist() == [[0, 2, 1, 255]]

    classes[0]["color"] = [128, 64, 1]
    register(describe(classes=classes, encoding="colors", ignore=[[0, 0, 0]]))
    with pytest.raises(InputError, match=r"has values \[128, 64, 0\] that the description"):
        semantic(DatasetCatalog.get("street_train")[0])


def test_16_bits_and_more_than_255_classes(describe, save):
    labels = np.array([[0, 299, 300, 65535]], np.uint16)
    save("images/train/a.jpg", np.zeros((1, 4, 3), np.uint8))
    save("labels/train/a.png", labels)
    register(describe(classes=[f"c{i}" for i in range(301)], ignore=[65535]))
    assert MetadataCatalog.get("street_train").ignore_label == 65535
    options = {"augmentations": [], "image_format": "RGB", "num_classes": 301}
    mapper = MaskFormerSemanticDatasetMapper(ignore_label=65535, **options)

    assert mapper(DatasetCatalog.get("street_train")[0])["sem_seg"].tolist() == labels.tolist()


def test_suffixes_and_lists(describe, save, tmp_path):
    for stem in ("a", "b"):
        save(f"all/{stem}_img.JPG", np.zeros((1, 1, 3), np.uint8))
        save(f"all/{stem}_img_mask.png", np.zeros((1, 1), np.uint8))
    (tmp_path / "train.txt").write_text("b_img.JPG\tb_img_mask.png\n")
    splits = {
        "all": {"images": "all", "labels": "all", "label_suffix": "_mask"},
        "some": {"images": "all", "labels": "all", "list": "train.txt"},
        "bare": {"images": "all", "image_suffix": "_img"},
    }
    register(describe(splits=splits))

    names = {split: DatasetCatalog.get(f"street_{split}") for split in splits}

    assert [Path(s["file_name"]).name for s in names["all"]] == ["a_img.JPG", "b_img.JPG"]
    assert [Path(s["sem_seg_file_name"]).name for s in names["all"]] == [
        "a_img_mask.png",
        "b_img_mask.png",
    ]
    assert [Path(s["sem_seg_file_name"]).name for s in names["some"]] == ["b_img_mask.png"]
    assert [Path(s["file_name"]).name for s in names["bare"]] == ["a_img.JPG", "b_img.JPG"]
    assert all("sem_seg_file_name" not in sample for sample in names["bare"])


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("labels/train", r"train.txt names 1 label maps that do not exist, such as .*train/b.png;"),
        (None, r"train.txt names label maps, but its split has no folder .*; add `labels` to the"),
    ],
)
def test_label_maps_of_a_list_that_are_nowhere(describe, save, tmp_path, labels, sentence):
    for stem in "ab":
        write_pair(save, stem, np.zeros((1, 1), np.uint8))
    (tmp_path / "labels/train/b.png").unlink()
    (tmp_path / "train.txt").write_text("a.jpg\ta.png\nb.jpg\tb.png\n")
    split = {"images": "images/train", "labels": labels, "list": "train.txt"}
    register(describe(splits={"train": {k: v for k, v in split.items() if v is not None}}))
    with pytest.raises(InputError, match=sentence):
        DatasetCatalog.get("street_train")


def test_pictures_without_labels_are_counted(describe, save, caplog):
    for stem in "abc":
        write_pair(save, stem, np.zeros((1, 1), np.uint8))
    save("images/train/d.jpg", np.zeros((1, 1, 3), np.uint8))
    save("labels/train/e.png", np.zeros((1, 1), np.uint8))
    register(describe())

    assert len(DatasetCatalog.get("street_train")) == 3

    assert "street_train: 1 of 4 pictures have no label map and are left out (d)" in caplog.text
    assert "street_train: 1 of 4 label maps have no picture and are left out (e)" in caplog.text


def test_nothing_that_pairs(describe, save):
    save("images/train/a.jpg", np.zeros((1, 1, 3), np.uint8))
    save("labels/train/a.jpg", np.zeros((1, 1), np.uint8))
    register(describe())
    with pytest.raises(InputError, match=r"label maps such as a.jpg .* whose format changes val"):
        DatasetCatalog.get("street_train")
    save("labels/train/b.png", np.zeros((1, 1), np.uint8))
    with pytest.raises(InputError, match=r"no picture of 1 has a label map .*would be a.png"):
        DatasetCatalog.get("street_train")
    save("images/train/a.png", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(InputError, match=r"a.jpg and a.png, whose names differ in the extension"):
        DatasetCatalog.get("street_train")


def test_the_root_is_looked_up_late(describe, save, tmp_path, monkeypatch):
    write_pair(save, "a", np.zeros((1, 1), np.uint8))
    (tmp_path / "elsewhere").mkdir()
    register(describe("elsewhere/dataset.yaml", root="$DETECTRON2_DATASETS"))
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    with pytest.raises(InputError, match=r"street_train needs /nowhere/images/train"):
        DatasetCatalog.get("street_train")

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    assert len(DatasetCatalog.get("street_train")) == 1
    register(describe("elsewhere/dataset.yaml", root=".."))
    assert len(DatasetCatalog.get("street_train")) == 1


def test_paths_in_a_configuration_are_relative_to_it(describe, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    file = describe("configs/street.yaml")
    config = tmp_path / "configs" / "config.yaml"
    config.write_text("DATASETS: {DESCRIPTIONS: [street.yaml], TRAIN: [street_train]}\n")
    assert [str(file)] == load_config(str(config)).DATASETS.DESCRIPTIONS

    monkeypatch.chdir(tmp_path)
    config.write_text("DATASETS: {DESCRIPTIONS: [configs/street.yaml]}\n")
    cfg = load_config(str(config))
    register_descriptions(cfg)

    assert "street_train" in DatasetCatalog.list()


def test_a_clash_of_names_is_refused(describe):
    register(describe(), describe())  # the same twice is no clash
    with pytest.raises(InputError, match=r"other.yaml: the data set street_train is registered by"):
        register(describe("other.yaml"))
    splits = {"train": {"name": "ade20k_sem_seg_val", "images": "x", "labels": "y"}}
    with pytest.raises(InputError, match=r"ade20k_sem_seg_val is registered by another package"):
        register(describe("third.yaml", splits=splits))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": None}, r"dataset.yaml has no name; a description needs name, classes and spl"),
        ({"name": "a b"}, r"name is 'a b'; give a text of letters"),
        ({"classes": []}, r"has no classes"),
        ({"clases": ["a"]}, r"unknown key 'clases'; did you mean classes\?"),
        ({"classes": "nowhere.json"}, r"list of classes .*nowhere.json does not exist"),
        ({"classes": {"road": 0}}, r"classes is \{'road': 0\}; give a list of names or maps"),
        ({"classes": ["road", True]}, r"the name of class 1 is True; give a text, in quotation"),
        ({"classes": ["a", "a"]}, r"the name a stands more than once"),
        ({"classes": [{"name": "a", "values": [1]}, "b"]}, r"the value 1 stands more than once"),
        ({"classes": [{"name": "a", "id": 1}, {"name": "b", "id": 1, "values": [4]}]}, r"the id 1"),
        ({"classes": ["a"], "ignore": [0]}, r"the value 0 stands more than once among classes and"),
        ({"classes": [{"name": "a", "color": [1, 2]}]}, r"the color of class 'a' is \[1, 2\]; giv"),
        ({"classes": [{"name": "a", "thing": 1}]}, r"thing of class 'a' is 1; give true or false"),
        ({"classes": [{"name": "a", "values": 3}]}, r"values of class 'a' is 3; give a list"),
        ({"classes": [{"name": "a", "values": ["x"]}]}, r"values of class 'a' has 'x'; give numb"),
        ({"classes": [{"name": "a", "id": -1}]}, r"the id of class 'a' is -1"),
        ({"classes": [{"nam": "a"}]}, r"class 0 has the unknown key 'nam'; did you mean name\?"),
        ({"encoding": "colors"}, r"class 'road' has no color, which label files hold"),
        ({"encoding": "rgb"}, r"encoding is 'rgb'; give ids or colors"),
        ({"ignore": 255}, r"ignore is 255; give a list"),
        ({"ignore_label": 1}, r"ignore_label is 1; .*a number from 3"),
        ({"background": "road"}, r"background is 'road'; give class or ignore"),
        ({"task": "segmentation"}, r"task is 'segmentation'; give semantic or panoptic or inst"),
        ({"root": "$HOME/x"}, r"root is '\$HOME/x'; the one variable known is \$DETECTRON2"),
        ({"root": 5}, r"root is 5; give a folder"),
        ({"splits": ["train"]}, r"splits is \['train'\]; give a map"),
        ({"splits": {"train": None}}, r"split train is None; give a map of name, images, labels"),
        ({"splits": {"train": {"labels": "x"}}}, r"split train has no images"),
        ({"splits": {"train": {"images": 5}}}, r"images of split train is 5; give a text"),
        ({"splits": {"train": {"images": "x", "masks": "y"}}}, r"split train has the unknown key"),
        ({"splits": {"train": {"images": "x", "json": "y"}}}, r"json, which semantic data do not"),
        (
            {"task": "panoptic", "splits": {"train": {"images": "x", "labels": "y"}}},
            r"split train has no panoptic, json, which panoptic data need; add it",
        ),
        (
            {"task": "instance", "splits": {"v": {"images": "x", "json": "j", "list": "l"}}},
            r"split v has list, which would not be used: its json names the pictures",
        ),
        (
            {
                "task": "panoptic",
                "classes": ["a"],
                "splits": {
                    "v": {"images": "x", "panoptic": "p", "json": "j"}
                    | {"labels": "l", "image_suffix": "_i", "label_suffix": "_l"}
                },
            },
            r"split v has image_suffix, label_suffix, which would not be used",
        ),
        ({"ignore": [65536]}, r"have the value 65536, but label files hold values from 0 to 65535"),
        ({"classes": [{"name": "a", "values": [70000]}]}, r"have the value 70000, but label file"),
        (
            {"splits": {s: {"name": "one", "images": "x"} for s in "ab"}},
            r"two splits are named one",
        ),
        (
            {"task": "panoptic", "splits": {"v": {"images": "x"}}},
            r"class 'car' merges several values, but in a panoptic map stuff that is merged",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(describe, changes, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        read_description(str(describe(**changes)))
    assert "dataset.yaml" in str(error.value)


def test_categories_of_a_json_may_be_any_numbers(describe):
    splits = {"v": {"images": "x", "json": "j"}}
    classes = [{"name": "a", "values": [70000]}]
    description = read_description(str(describe(task="instance", classes=classes, splits=splits)))
    assert description.categories() == {255: None, 70000: 0}


def test_a_class_without_values_is_in_no_file(describe, save):
    write_pair(save, "a", np.array([[0, 1]], np.uint8))
    register(describe(classes=["road", {"name": "sky", "values": []}, "car"]))
    with pytest.raises(InputError, match=r"a.png has values 1 that the description"):
        semantic(DatasetCatalog.get("street_train")[0])


def test_a_description_that_is_no_map(tmp_path):
    (tmp_path / "d.yaml").write_text("- a\n")
    with pytest.raises(InputError, match=r"d.yaml holds \['a'\]; a description of a data set is"):
        read_description(str(tmp_path / "d.yaml"))
    with pytest.raises(InputError, match=r"cannot read the description of a data set .*/no.yaml"):
        read_description(str(tmp_path / "no.yaml"))


def test_semantic_evaluation_reads_the_same_labels(describe, save, tmp_path):
    write_pair(save, "a", np.array([[0, 13, 14, 255]], np.uint8))
    register(describe())
    cfg = get_mask_former_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    evaluator = build_evaluator(cfg, "street_train")
    sample = {**DatasetCatalog.get("street_train")[0], "height": 1, "width": 4}

    evaluator.reset()
    evaluator.process([sample], [{"sem_seg": torch.eye(3)[:, [0, 2, 1, 1]][:, None]}])
    result = evaluator.evaluate()["sem_seg"]

    assert result["IoU-road"] == 100
    assert result["IoU-car"] == 50  # one of the two pixels that the file calls 13 and 14


def write_panoptic(save, tmp_path: Path) -> None:
    ids = np.zeros((1, 6, 3), np.uint8)
    ids[0, :, 0] = [1, 1, 2, 2, 3, 3]
    save("pan/x.png", ids)
    save("images/x.PNG", np.zeros((1, 6, 3), np.uint8))
    kinds = {1: 21, 2: 7, 3: 8}
    segments = [
        {"id": i, "category_id": c, "iscrowd": 0, "area": 2, "bbox": [2 * i - 2, 0, 2, 1]}
        for i, c in kinds.items()
    ]
    content = {
        "images": [{"id": "x", "file_name": "x.PNG", "width": 6, "height": 1}],
        "annotations": [{"image_id": "x", "file_name": "x.png", "segments_info": segments}],
        "categories": [{"id": i, "name": str(i), "isthing": int(i < 9)} for i in (7, 8, 21)],
    }
    (tmp_path / "pan.json").write_text(json.dumps(content))


SKY = {"name": "sky", "values": [21]}
PANOPTIC = {
    "task": "panoptic",
    "splits": {"val": {"images": "images", "panoptic": "pan", "json": "pan.json"}},
}


def evaluate_panoptic(tmp_path: Path, ids: list[int], segments: list[dict]) -> dict:
    cfg = get_mask_former_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    evaluator = build_evaluator(cfg, "street_val")
    sample = {**DatasetCatalog.get("street_val")[0], "height": 1, "width": 6}
    evaluator.reset()
    output = {"panoptic_seg": (torch.tensor([ids], dtype=torch.int32), segments)}
    evaluator.process([sample], [output])
    return evaluator.evaluate()["panoptic_seg"]


def panoptic_sample(task: type = MaskFormerPanopticDatasetMapper, classes: int = 2) -> dict:
    options = {"augmentations": [], "image_format": "RGB", "num_classes": classes}
    if task is MaskFormerPanopticDatasetMapper:
        options["ignore_label"] = 255
    return task(**options)(DatasetCatalog.get("street_val")[0])


def test_panoptic_things_are_merged(describe, save, tmp_path):
    write_panoptic(save, tmp_path)
    classes = [SKY, {"name": "car", "values": [7, 8], **PARTS}]
    register(describe(classes=classes, **PANOPTIC))

    instances = panoptic_sample()["instances"]
    segments = [
        {"id": i, "category_id": c, "isthing": bool(c)} for i, c in ((1, 0), (2, 1), (3, 1))
    ]
    result = evaluate_panoptic(tmp_path, [1, 1, 2, 2, 3, 3], segments)

    assert instances.gt_classes.tolist() == [0, 1, 1]
    assert MetadataCatalog.get("street_val").thing_dataset_id_to_contiguous_id == {1: 1}
    assert (result["PQ"], result["PQ_th"], result["PQ_st"]) == (100, 100, 100)


def test_things_that_a_json_does_not_list_are_merged(describe, save, tmp_path):
    write_panoptic(save, tmp_path)
    content = json.loads((tmp_path / "pan.json").read_text())
    del content["categories"]
    (tmp_path / "pan.json").write_text(json.dumps(content))
    classes = [{**SKY, "id": 21}, {"name": "car", "id": 7, "values": [7, 8], **PARTS}]
    register(describe(classes=classes, **PANOPTIC))

    segments = [
        {"id": i, "category_id": c, "isthing": bool(c)} for i, c in ((1, 0), (2, 1), (3, 1))
    ]
    result = evaluate_panoptic(tmp_path, [1, 1, 2, 2, 3, 3], segments)

    assert (result["PQ"], result["PQ_th"], result["PQ_st"]) == (100, 100, 100)


def test_panoptic_categories_that_are_dropped_are_void(describe, save, tmp_path):
    write_panoptic(save, tmp_path)
    classes = [SKY, {"name": "car", "values": [7], **PARTS}]
    register(describe(classes=classes, background="ignore", **PANOPTIC))

    instances = panoptic_sample()["instances"]
    # A prediction on what is void is no fault.
    segments = [
        {"id": i, "category_id": c, "isthing": bool(c)} for i, c in ((1, 0), (2, 1), (3, 1))
    ]
    result = evaluate_panoptic(tmp_path, [1, 1, 2, 2, 3, 3], segments)

    assert instances.gt_classes.tolist() == [0, 1]
    assert instances.gt_masks.sum((1, 2)).tolist() == [2, 2]
    assert (result["PQ"], result["PQ_th"], result["PQ_st"]) == (100, 100, 100)


@pytest.mark.parametrize("ignore", [[8], [8, 9]])
def test_a_thing_that_is_ignored_passes_the_checks(describe, save, tmp_path, ignore):
    write_panoptic(save, tmp_path)
    classes = [SKY, {"name": "car", "values": [7], **PARTS}]
    register(describe(classes=classes, ignore=ignore, **PANOPTIC))

    check_dataset("street_val", 2)

    assert panoptic_sample()["instances"].gt_classes.tolist() == [0, 1]


def test_a_category_that_is_not_listed_is_refused(describe, save, tmp_path):
    write_panoptic(save, tmp_path)
    register(describe(classes=[SKY, {"name": "car", "values": [7]}], **PANOPTIC))
    with pytest.raises(InputError, match=r"pan.json \(x.png\) has a segment of category_id 8"):
        DatasetCatalog.get("street_val")


def test_instances_are_merged_and_dropped(describe, save, tmp_path):
    save("images/x.webp", np.zeros((4, 8, 3), np.uint8))
    boxes = {1: (7, 0), 2: (8, 2), 3: (9, 4)}
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": category,
            "iscrowd": 0,
            "area": 8,
            "bbox": [x, 0, 2, 4],
            "segmentation": [[x, 0, x + 2, 0, x + 2, 4, x, 4]],
        }
        for i, (category, x) in boxes.items()
    ]
    content = {
        "images": [{"id": 1, "file_name": "x.webp", "width": 8, "height": 4}],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in (7, 8, 9)],
    }
    (tmp_path / "inst.json").write_text(json.dumps(content))
    splits = {"val": {"images": "images", "json": "inst.json"}}
    classes = [{"name": "car", "values": [7, 8]}]
    register(describe(task="instance", classes=classes, background="ignore", splits=splits))

    instances = panoptic_sample(MaskFormerInstanceDatasetMapper, 1)["instances"]

    assert instances.gt_classes.tolist() == [0, 0]
    cfg = get_mask_former_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = True
    evaluator = build_evaluator(cfg, "street_val")
    assert evaluator._coco_api.getCatIds() == [0]
    assert [a["category_id"] for a in evaluator._coco_api.anns.values()] == [0, 0]


def test_classes_of_a_coco_json(describe, save, tmp_path):
    write_panoptic(save, tmp_path)
    register(describe(classes="pan.json", **PANOPTIC))
    metadata = MetadataCatalog.get("street_val")
    assert metadata.stuff_classes == ["7", "8", "21"]
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 8: 1}
    assert metadata.stuff_dataset_id_to_contiguous_id == {7: 0, 8: 1, 21: 2}
    assert panoptic_sample(classes=3)["instances"].gt_classes.tolist() == [2, 0, 1]


def test_a_list_of_classes_with_a_byte_order_mark(describe, tmp_path):
    (tmp_path / "classes.json").write_text('[{"name": "a"}]', encoding="utf-8-sig")
    description = read_description(str(describe(classes="classes.json")))
    assert [entry.name for entry in description.classes] == ["a"]


@pytest.mark.parametrize("values", [[13, 14], [2]])
def test_labels_as_stored_are_trained_and_evaluated_as_displayed(describe, save, tmp_path, values):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn clockwise shows it
    save("images/train/a.png", Image.new("RGB", (3, 1)), exif=exif)
    save("labels/train/a.png", np.array([[0, 1, values[0]]], np.uint8))
    register(describe(classes=["road", "sky", {"name": "car", "values": values}]))
    (sample,) = DatasetCatalog.get("street_train")
    assert semantic(sample).tolist() == [[0], [1], [2]]
    cfg = get_mask_former_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    evaluator = build_evaluator(cfg, "street_train")

    evaluator.reset()
    evaluator.process([{**sample, "height": 3, "width": 1}], [{"sem_seg": torch.eye(3)[..., None]}])

    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100
