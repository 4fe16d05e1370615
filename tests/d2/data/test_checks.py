"""What a trainer is told before it builds anything."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.d2.data.checks import check_dataset
from mask_former.d2.data.datasets import register_all
from mask_former.d2.errors import InputError


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
    (tmp_path / "panoptic.json").write_text("{}")
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
    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setitem(vars(metadata), "image_root", str(tmp_path))
    monkeypatch.setitem(vars(metadata), "json_file", str(tmp_path / "a.json"))
    check_dataset("coco_2017_val", 80)

    with pytest.raises(InputError, match=r"coco_2017_val has 80 classes"):
        check_dataset("coco_2017_val", 133)
