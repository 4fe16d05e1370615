"""What a trainer is told before it builds anything."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.data.checks import check_dataset, check_datasets, check_pictures
from mask_former.d2.data.datasets import register_all
from mask_former.d2.data.json_files import check_panoptic
from mask_former.d2.errors import InputError

PANOPTIC = {"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]}


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_all()


@pytest.fixture
def camvid(save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set that is on the disk."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    save("camvid/images/train/a.jpg", np.zeros((4, 6, 3), dtype=np.uint8))
    save("camvid/annotations/train/a.png", np.zeros((4, 6), dtype=np.uint8))
    return "camvid_sem_seg_train"


def test_a_good_data_set_passes(camvid):
    check_dataset(camvid)
    check_dataset(camvid, 11)


def test_another_number_of_classes(camvid):
    with pytest.raises(InputError, match=r"train has 11 classes, but .*NUM_CLASSES is 150; set it"):
        check_dataset(camvid, 150)


def test_unknown_name_lists_close_ones():
    with pytest.raises(InputError, match=r"camvid_semseg_train is not registered; did you mean"):
        check_dataset("camvid_semseg_train")
    with pytest.raises(InputError, match=r"camvid_sem_seg_train or [^;]*DatasetCatalog$"):
        check_dataset("camvid_semseg_train")
    with pytest.raises(InputError, match=r"zebra is not .*; registered are .*ade20k_full"):
        check_dataset("zebra")
    assert "zebra" not in MetadataCatalog.list()


def test_root_that_points_nowhere(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")

    with pytest.raises(InputError) as error:
        check_dataset("shapes_panoptic_train", 7)

    message = str(error.value)
    assert "data set shapes_panoptic_train needs /nowhere/shapes/" in message
    assert "does not exist or is empty" in message
    assert "DETECTRON2_DATASETS is '/nowhere', no folder" in message


def test_empty_folder(camvid, tmp_path):
    (tmp_path / "camvid/annotations/train/a.png").unlink()

    with pytest.raises(InputError, match=r"annotations/train \(sem_seg_root\), which does not"):
        check_dataset(camvid)


@pytest.mark.parametrize(
    "name", ["ade20k_sem_seg_val", "coco_2017_val_panoptic", "cityscapes_fine_sem_seg_val"]
)
def test_built_in_sets_are_told_to_set_the_root_early(name: str, monkeypatch):
    metadata = MetadataCatalog.get(name)
    for key in ("image_root", "image_dir"):
        if key in vars(metadata):
            monkeypatch.setitem(vars(metadata), key, "/nowhere/images")

    with pytest.raises(InputError, match=r"needs /nowhere/images .*before Python starts"):
        check_dataset(name)


@pytest.fixture
def someone_elses(tmp_path: Path):
    """A panoptic set that another package registered."""
    name = "someone_elses"
    (tmp_path / "panoptic.json").write_text(json.dumps(PANOPTIC))
    DatasetCatalog.register(name, list)
    metadata = MetadataCatalog.get(name).set(
        panoptic_json=str(tmp_path / "panoptic.json"),
        json_file=str(tmp_path / "instances.json"),
        image_root=str(tmp_path),
        stuff_classes=["a", "b"],
        evaluator_type="coco_panoptic_seg",
    )
    yield metadata
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_panoptic_sets_do_without_their_instances(someone_elses):
    check_dataset(someone_elses.name)
    del someone_elses.panoptic_json

    with pytest.raises(InputError, match=r"instances.json \(json_file\)"):
        check_dataset(someone_elses.name)


def test_classes_are_counted_where_the_list_has_all(someone_elses):
    check_dataset(someone_elses.name, 133)  # a separated set: its list has stuff alone
    someone_elses.label_divisor = 1000

    with pytest.raises(InputError, match="has 2 classes"):
        check_dataset(someone_elses.name, 133)


def test_classes_of_things_are_counted_in_instance_sets(someone_elses):
    del someone_elses.panoptic_json, someone_elses.json_file, someone_elses.evaluator_type
    someone_elses.evaluator_type = "coco"
    check_dataset(someone_elses.name, 5)  # the classes stand in a JSON that nobody has read yet
    someone_elses.thing_classes = ["a", "b", "c"]
    check_dataset(someone_elses.name, 3)

    with pytest.raises(InputError, match=r"has 3 classes, but .*NUM_CLASSES is 2"):
        check_dataset(someone_elses.name, 2)


def test_classes_of_coco(tmp_path, monkeypatch):
    metadata = MetadataCatalog.get("coco_2017_val")
    categories = [{"id": i, "name": name} for i, name in enumerate(metadata.thing_classes)]
    images = [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "categories": categories}))
    monkeypatch.setitem(vars(metadata), "image_root", str(tmp_path))
    monkeypatch.setitem(vars(metadata), "json_file", str(tmp_path / "a.json"))
    check_dataset("coco_2017_val", 80)

    with pytest.raises(InputError, match=r"coco_2017_val has 80 classes"):
        check_dataset("coco_2017_val", 133)


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Registers semantic data sets with label maps of the values given, each in a map."""
    names = []

    def registered(name: str, values: list[int] = (0, 1), **metadata: object) -> str:
        samples = []
        for i, value in enumerate(values):
            path = tmp_path / f"{name}_{i}.png"
            Image.fromarray(np.full((2, 3), value, np.uint8)).save(path)
            samples.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)})
        names.append(name)
        DatasetCatalog.register(name, lambda: samples)
        default = {"evaluator_type": "sem_seg", "ignore_label": 255, "stuff_classes": ["a", "b"]}
        MetadataCatalog.get(name).set(**{**default, **metadata})
        return name

    yield registered
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def cfg_of(train: list[str], test: list[str], number: int = 2):
    cfg = get_mask_former_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = number
    return cfg


def test_classes_in_another_order(register):
    ours, theirs = register("ours"), register("theirs", stuff_classes=["b", "a"])
    message = r"class 0 is a in data set ours, but b in theirs; .* one order"
    for names in ([ours, theirs], []), ([ours], [theirs]):
        with pytest.raises(InputError, match=message):
            check_datasets(cfg_of(*names))
    with pytest.raises(InputError, match=message):
        check_datasets(cfg_of([ours], [theirs]), train=False)
    check_datasets(cfg_of([ours], [register("same", stuff_classes=["A", "b "])]))
    check_datasets(cfg_of(["unknown"], [ours]), train=False)  # an evaluation does not need it


def test_classes_of_sets_that_nobody_evaluates(register):
    test = register("test")
    train = register("train", evaluator_type=None, stuff_classes=["b", "a"])
    with pytest.raises(InputError, match=r"class 0 is b in data set train, but a in test"):
        check_datasets(cfg_of([train], [test]))
    things = {"stuff_classes": (), "thing_classes": ["a"]}
    with pytest.raises(InputError, match=r"things has 1 classes"):
        check_datasets(cfg_of([register("things", evaluator_type=None, **things)], []))
    both = register("both", evaluator_type=None, thing_classes=["c"])
    check_datasets(cfg_of([both], [test]))


def test_ignored_labels_of_joined_sets(register):
    ours, theirs = register("ours"), register("theirs", ignore_label=0)
    with pytest.raises(InputError, match=r"ours has the ignore_label 255, but theirs, .* 0; give"):
        check_datasets(cfg_of([ours, theirs], []))
    check_datasets(cfg_of([ours], [theirs]))


def test_things_that_are_stuff_elsewhere(register):
    panoptic = {"evaluator_type": "coco_panoptic_seg", "label_divisor": 1000}
    ours = register("ours", **panoptic, thing_dataset_id_to_contiguous_id={5: 0})
    theirs = register("theirs", **panoptic, thing_dataset_id_to_contiguous_id={7: 1})
    with pytest.raises(InputError, match="kind of class 0 is a thing in data set ours, but stuff"):
        check_datasets(cfg_of([ours], [theirs]))
    check_datasets(cfg_of([ours], [register("semantic")]))


def test_classes_of_instances_in_another_order(register, tmp_path):
    names = []
    for name, classes in (("ours", ["a", "b"]), ("theirs", ["b", "a"])):
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}],
            "categories": [{"id": i, "name": each} for i, each in enumerate(classes)],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 0, "segmentation": [[0, 0, 2, 0, 2, 2]]}
            ],
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        names.append(register(name, evaluator_type="coco", json_file=str(path)))
    cfg = cfg_of(names[:1], names[1:])
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_instance"
    with pytest.raises(InputError, match="class 0 is a in data set ours, but b in theirs"):
        check_datasets(cfg)
    cfg.DATASETS.TEST = ()
    check_datasets(cfg)
    MetadataCatalog.get("ours").thing_classes = ["b", "a"]
    with pytest.raises(
        InputError, match=r"ours.json are a, b \(2\), but the thing_classes of .* b, a"
    ):
        check_datasets(cfg)
    del MetadataCatalog.get("ours").thing_classes
    (tmp_path / "ours.json").write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(InputError, match=r"ours.json of data set ours has no annotation to learn"):
        check_datasets(cfg)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 255], "the 2 label maps of .*ours_0.png, have class 0 alone beside .* label 255"),
        ([255, 255], "have no class beside the ignored label 255"),
        ([0] * 30 + [7], "has ids 7"),
    ],
)
def test_only_one_class_is_ever_learnt(register, values, message):
    with pytest.raises(InputError, match=message):
        check_datasets(cfg_of([register("ours", values)], []))


def test_a_second_class_that_is_rare(register):
    rare = register("ours", [0] * 45 + [1, 0])
    check_datasets(cfg_of([rare], []))
    check_datasets(cfg_of([], [register("test", [0, 255])]))  # nothing is learnt from it


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"image_id": 1}], None),
        ([{"image_id": "01"}], None),
        ([{"file_name": "images/b/a.jpg"}], None),
        ([{"file_name": "a.jpg"}], r"such as 'a', have no entry in .*panoptic.json"),
        ([{"image_id": 2}], r"1 image ids of .*, such as 2, have no entry in .*panoptic.json"),
        ([{"image_id": 1}] * 2, "such as 1, have more than one picture in the data set"),
        ([{"image_id": 1}, {"image_id": 2}], "such as 2, have no entry"),
    ],
)
def test_pictures_are_those_of_the_json(someone_elses, samples, message):
    content = {"annotations": [{**PANOPTIC["annotations"][0], "file_name": "b/a.png"}]}
    Path(someone_elses.panoptic_json).write_text(json.dumps(content))
    del someone_elses.image_root
    someone_elses.image_root = "images"
    name = someone_elses.name
    listed = check_panoptic(someone_elses.panoptic_json, {})
    if message is None:
        check_pictures(name, samples, someone_elses.panoptic_json, listed)
        return
    with pytest.raises(InputError, match=message):
        check_pictures(name, samples, someone_elses.panoptic_json, listed)


def test_a_picture_of_the_json_that_the_data_set_lacks(someone_elses):
    listed = [[1, "a"], [2, "b"]]
    with pytest.raises(InputError, match="such as 2, have no picture in the data set"):
        check_pictures(someone_elses.name, [{"image_id": 1}], "a.json", listed)


def test_a_test_set_that_cannot_be_loaded(register):
    ours, theirs = register("ours"), register("theirs")
    DatasetCatalog.remove(theirs)
    DatasetCatalog.register(theirs, list)
    with pytest.raises(InputError, match="data set theirs has no pictures"):
        check_datasets(cfg_of([ours], [theirs]))

    def load() -> list:
        raise AssertionError("there is no a.jpg")

    DatasetCatalog.remove(theirs)
    DatasetCatalog.register(theirs, load)
    with pytest.raises(
        InputError, match=r"theirs cannot be loaded: its loader asserts 'there is no"
    ):
        check_datasets(cfg_of([ours], [theirs]), train=False)


def test_one_class_may_be_all(register):
    check_datasets(cfg_of([register("ours", [0, 255], stuff_classes=["a"])], [], number=1))


def test_separated_panoptic_sets(tmp_path, monkeypatch):
    name = "coco_2017_val_panoptic_separated"
    for key in ("image_root", "panoptic_root", "sem_seg_root", "panoptic_json"):
        (tmp_path / "a.json").write_text(json.dumps(PANOPTIC))
        path = tmp_path / "a.json" if key == "panoptic_json" else tmp_path
        monkeypatch.setitem(vars(MetadataCatalog.get(name)), key, str(path))
    with pytest.raises(InputError, match=r"its things and its stuff .* such as coco_2017_val_pano"):
        check_dataset(name, 133)


CITY = "aachen/aachen_000000_000019_"
TRAIN_IDS = "gtFine_labelTrainIds.png"


@pytest.fixture
def cityscapes(tmp_path: Path, monkeypatch) -> Path:
    """The folder of one picture of Cityscapes, with all its labels."""
    for task in ("sem_seg", "instance_seg", "panoptic"):
        metadata = vars(MetadataCatalog.get(f"cityscapes_fine_{task}_train"))
        images = "image_root" if task == "panoptic" else "image_dir"
        monkeypatch.setitem(metadata, images, str(tmp_path / "leftImg8bit/train"))
        monkeypatch.setitem(metadata, "gt_dir", str(tmp_path / "gtFine/train"))
    panoptic = tmp_path / "gtFine/cityscapes_panoptic_train"
    monkeypatch.setitem(metadata, "panoptic_root", str(panoptic))
    monkeypatch.setitem(metadata, "panoptic_json", f"{panoptic}.json")
    labels = ("instanceIds.png", "labelIds.png", "labelTrainIds.png", "polygons.json")
    files = [f"leftImg8bit/train/{CITY}leftImg8bit.png", "gtFine/cityscapes_panoptic_train/a.png"]
    for file in (*files, *(f"gtFine/train/{CITY}gtFine_{end}" for end in labels)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    Path(f"{panoptic}.json").write_text(json.dumps(PANOPTIC))
    return tmp_path


@pytest.mark.parametrize("task", ["sem_seg", "instance_seg", "panoptic"])
def test_cityscapes(cityscapes, task):
    name = f"cityscapes_fine_{task}_train"
    check_dataset(name, None)
    labels = cityscapes / "gtFine/train" / f"{CITY}{TRAIN_IDS}"
    labels.unlink()
    if task == "instance_seg":
        check_dataset(name)
        labels = labels.with_name(labels.name.replace("labelTrainIds", "instanceIds"))
        labels.unlink()
        command = "unpack gtFine_trainvaltest.zip"
    else:
        command = f"CITYSCAPES_DATASET={cityscapes} csCreateTrainIdLabelImgs"
    with pytest.raises(InputError) as caught:
        check_dataset(name)
    assert f"needs {labels}, which does not exist (1 of 1 are missing)" in str(caught.value)
    assert command in str(caught.value)


def test_cityscapes_without_panoptic_maps(cityscapes):
    (cityscapes / "gtFine/cityscapes_panoptic_train.json").unlink()
    with pytest.raises(InputError, match=r"CITYSCAPES_DATASET=\S+ csCreatePanopticImgs"):
        check_dataset("cityscapes_fine_panoptic_train")


def test_another_file_among_the_pictures_of_cityscapes(cityscapes):
    stray = cityscapes / "leftImg8bit/train/.DS_Store"
    stray.touch()
    with pytest.raises(InputError, match=rf"{stray} is none of the pictures .* take it away"):
        check_dataset("cityscapes_fine_sem_seg_train")
