"""The catalogs after registration, and loading from a folder that is set late."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES, COCO_CATEGORIES

from mask_former.d2.data.datasets import (
    DescribedSet,
    own_sets,
    read_categories,
    refresh_paths,
    register_all,
    registered_row,
)
from mask_former.d2.errors import InputError

NUM_CLASSES = {
    "camvid_sem_seg": 11,
    "shapes_panoptic": 7,
    "ade20k_full_sem_seg": 847,
    "ade20k_panoptic": 150,
    "stuff_10k_sem_seg": 171,
    "mapillary_vistas_sem_seg": 65,
}
IGNORE_LABELS = {"camvid_sem_seg": 11, "ade20k_full_sem_seg": 65535, "mapillary_vistas_sem_seg": 65}
PATHS = {"image_root", "sem_seg_root", "panoptic_root", "panoptic_json"}


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_all()


def keys_of(name: str) -> set[str]:
    return set(MetadataCatalog.get(name).as_dict())


def test_registering_again_changes_nothing():
    before = {name: DatasetCatalog[name] for name in DatasetCatalog.list()}
    metadata = {row.name: MetadataCatalog.get(row.name).as_dict() for row in own_sets()}

    assert register_all() == []
    assert {name: DatasetCatalog[name] for name in DatasetCatalog.list()} == before
    assert {row.name: MetadataCatalog.get(row.name).as_dict() for row in own_sets()} == metadata


def test_names():
    assert {row.name for row in own_sets()} == {
        *(f"camvid_sem_seg_{split}" for split in ("train", "val", "test")),
        *(f"shapes_panoptic_{split}" for split in ("train", "val", "dev")),
        *(f"ade20k_full_sem_seg_{split}" for split in ("train", "val")),
        *(f"ade20k_panoptic_{split}" for split in ("train", "val")),
        *(f"coco_2017_{split}_stuff_10k_sem_seg" for split in ("train", "test")),
        *(f"mapillary_vistas_sem_seg_{split}" for split in ("train", "val")),
    }
    assert all(registered_row(row.name) is not None for row in own_sets())
    assert registered_row("ade20k_sem_seg_train") is None


@pytest.mark.parametrize("row", own_sets(), ids=lambda row: row.name)
def test_numbers_of_classes_and_ignore_labels(row: DescribedSet):
    metadata = MetadataCatalog.get(row.name)
    (kind,) = [kind for kind in NUM_CLASSES if kind in row.name]

    assert len(metadata.stuff_classes) == NUM_CLASSES[kind]
    assert metadata.ignore_label == IGNORE_LABELS.get(kind, 255)
    for colors in (metadata.get("stuff_colors"), metadata.get("thing_colors")):
        assert colors is None or len(colors) == NUM_CLASSES[kind]


def test_keys_of_semantic_sets():
    common = {"name", "image_root", "sem_seg_root", "stuff_classes", "evaluator_type"}
    common |= {"ignore_label"}

    assert keys_of("ade20k_full_sem_seg_train") == common
    assert keys_of("mapillary_vistas_sem_seg_val") == common | {"stuff_colors"}
    assert keys_of("camvid_sem_seg_test") == common | {"stuff_colors"}
    assert keys_of("coco_2017_test_stuff_10k_sem_seg") == common | {
        "stuff_dataset_id_to_contiguous_id"
    }
    assert MetadataCatalog.get("camvid_sem_seg_train").evaluator_type == "sem_seg"


@pytest.mark.parametrize("name", ["ade20k_panoptic_val", "shapes_panoptic_dev"])
def test_metadata_of_panoptic_sets(name: str):
    metadata = MetadataCatalog.get(name)
    classes = read_categories("ade20k_150" if "ade" in name else "shapes")

    assert keys_of(name) == {
        *("name", "panoptic_root", "image_root", "panoptic_json", "json_file", "label_divisor"),
        *("thing_classes", "thing_colors", "stuff_classes", "stuff_colors"),
        *("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"),
        *("evaluator_type", "ignore_label"),
    }
    assert metadata.evaluator_type == "ade20k_panoptic_seg"
    assert metadata.json_file is None
    assert metadata.label_divisor == 1000
    assert metadata.thing_classes == metadata.stuff_classes
    assert metadata.thing_colors == metadata.stuff_colors
    things = {entry["id"] for entry in classes if entry["isthing"]}
    assert metadata.thing_dataset_id_to_contiguous_id == {i: i for i in things}
    assert metadata.stuff_dataset_id_to_contiguous_id == {i: i for i in range(len(classes))}
    assert len(things) == (100 if "ade" in name else 4)


def test_ade20k_classes_are_detectron2s_and_have_colours_there():
    classes = read_categories("ade20k_150")

    assert [entry["name"] for entry in classes] == ADE20K_SEM_SEG_CATEGORIES
    assert [entry["id"] for entry in classes] == list(range(150))
    assert classes[6]["color"] == classes[48]["color"] == [140, 140, 140]
    for split in ("train", "val"):
        colors = MetadataCatalog.get(f"ade20k_sem_seg_{split}").stuff_colors
        assert colors == [entry["color"] for entry in classes]


def test_coco_stuff_has_coco_things_first():
    ids = MetadataCatalog.get("coco_2017_train_stuff_10k_sem_seg").stuff_dataset_id_to_contiguous_id
    things = [entry for entry in COCO_CATEGORIES if entry["isthing"]]

    assert list(ids)[:80] == [entry["id"] for entry in things]
    assert list(ids)[80:] == list(range(92, 183))
    assert list(ids.values()) == list(range(171))
    names = MetadataCatalog.get("coco_2017_train_stuff_10k_sem_seg").stuff_classes
    assert names[:80] == [entry["name"] for entry in things]
    assert names[80:] == sorted(names[80:])


def test_unique_object_indices_of_ade20k_full():
    classes = read_categories("ade20k_full_847")

    assert [entry["id"] for entry in classes] == list(range(847))
    assert len({entry["object_index"] for entry in classes}) == 847
    assert (classes[0]["name"], classes[0]["object_index"]) == ("wall", 2978)


@pytest.mark.parametrize(
    ("table", "facts"),
    [
        ("ade20k_150", "ade20k_150"),
        ("ade20k_full_847", "ade20k_full_847"),
        ("coco_stuff_171", "coco_stuff_171"),
        ("mapillary_vistas_65", "mapillary_vistas_66"),
    ],
)
def test_tables_are_the_published_facts(shared: Path, table: str, facts: str):
    published = json.loads((shared / "spec" / "categories" / f"{facts}.json").read_text())
    rows = [dict(zip(published["columns"], row, strict=True)) for row in published["rows"]]
    rows = [row for row in rows if row.get("evaluate", True)]
    ours = read_categories(table)

    assert [c["name"] for c in ours] == [row.get("readable", row["name"]) for row in rows]
    assert [c.get("color") for c in ours] == [row.get("color_rgb") for row in rows]
    assert [c.get("object_index") for c in ours] == [row.get("object_index") for row in rows]
    if table == "ade20k_150":
        assert [c["isthing"] for c in ours] == [row["isthing"] for row in rows]


def write_camvid(root: Path, save, stems: list[str]) -> None:
    for stem in stems:
        save(f"camvid/images/train/{stem}.jpg", np.zeros((4, 6, 3), dtype=np.uint8))
        save(f"camvid/annotations/train/{stem}.png", np.zeros((4, 6), dtype=np.uint8))


def test_the_root_is_looked_up_when_a_set_is_used(save, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    with pytest.raises(InputError, match=r"'/nowhere', no folder"):
        DatasetCatalog.get("camvid_sem_seg_train")
    assert MetadataCatalog.get("camvid_sem_seg_train").image_root.startswith("/nowhere/camvid")
    write_camvid(tmp_path, save, ["b", "a"])

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    samples = DatasetCatalog.get("camvid_sem_seg_train")

    assert samples == [
        {
            "file_name": str(tmp_path / f"camvid/images/train/{stem}.jpg"),
            "sem_seg_file_name": str(tmp_path / f"camvid/annotations/train/{stem}.png"),
        }
        for stem in ("a", "b")
    ]
    metadata = MetadataCatalog.get("camvid_sem_seg_train")
    assert metadata.image_root == str(tmp_path / "camvid/images/train")
    assert metadata.sem_seg_root == str(tmp_path / "camvid/annotations/train")


def test_the_default_root_is_relative(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    row = registered_row("camvid_sem_seg_val")
    assert row is not None

    refresh_paths(row)

    root = os.path.join("datasets", "camvid/images/val")
    assert MetadataCatalog.get("camvid_sem_seg_val").image_root == root


def write_shapes(root: Path, save, annotations: object) -> str:
    save("shapes/images/val/1.jpg", np.zeros((4, 6, 3), dtype=np.uint8))
    save("shapes/panoptic_val/1.png", np.zeros((4, 6, 3), dtype=np.uint8))
    save("shapes/annotations/val/1.png", np.zeros((4, 6), dtype=np.uint8))
    path = root / "shapes" / "panoptic_val.json"
    path.write_text(json.dumps({"annotations": annotations}))
    return str(path)


def annotation(category: int) -> dict:
    segment = {"id": 5, "category_id": category, "iscrowd": 0, "area": 3, "bbox": [0, 0, 3, 1]}
    return {"image_id": "one", "file_name": "1.png", "segments_info": [segment]}


def test_panoptic_samples(save, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_shapes(tmp_path, save, [annotation(0), annotation(3)])

    samples = DatasetCatalog.get("shapes_panoptic_val")

    assert [sample["segments_info"][0]["isthing"] for sample in samples] == [False, True]
    assert [sample["segments_info"][0]["category_id"] for sample in samples] == [0, 3]
    assert {key: value for key, value in samples[0].items() if key != "segments_info"} == {
        "file_name": str(tmp_path / "shapes/images/val/1.jpg"),
        "image_id": "one",
        "pan_seg_file_name": str(tmp_path / "shapes/panoptic_val/1.png"),
        "sem_seg_file_name": str(tmp_path / "shapes/annotations/val/1.png"),
    }


def test_panoptic_json_with_another_category(save, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    path = write_shapes(tmp_path, save, [annotation(7)])

    with pytest.raises(InputError) as error:
        DatasetCatalog.get("shapes_panoptic_val")

    assert str(error.value).startswith(f"{path} (1.png) has a segment of category_id 7")
    assert "0 to 6" in str(error.value)


def test_panoptic_json_without_images(save, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_shapes(tmp_path, save, [])

    with pytest.raises(InputError, match=r"panoptic_val.json lists no images"):
        DatasetCatalog.get("shapes_panoptic_val")


def test_broken_panoptic_json(save, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    path = Path(write_shapes(tmp_path, save, [annotation(0)]))
    path.write_text(path.read_text()[:30])

    with pytest.raises(InputError, match=r"panoptic JSON .*panoptic_val.json cannot be read"):
        DatasetCatalog.get("shapes_panoptic_val")


def test_first_image_of_a_panoptic_set_must_exist(save, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_shapes(tmp_path, save, [{**annotation(0), "file_name": "2.png"}])

    with pytest.raises(InputError, match=r"images/val/2.jpg \(file_name\), which does not exist"):
        DatasetCatalog.get("shapes_panoptic_val")


def run(script: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_earlier_registrations_of_others_stay():
    script = """
from detectron2.data import DatasetCatalog, MetadataCatalog
theirs = lambda: ["theirs"]
DatasetCatalog.register("ade20k_panoptic_val", theirs)
MetadataCatalog.get("ade20k_panoptic_val").set(image_root="theirs", ignore_label=254)
MetadataCatalog.get("ade20k_sem_seg_val").stuff_colors = [(1, 2, 3)]
import mask_former.d2
from mask_former.d2.data.datasets import register_all
assert register_all() == ["ade20k_panoptic_val"]
assert DatasetCatalog.get("ade20k_panoptic_val") == ["theirs"]
assert MetadataCatalog.get("ade20k_panoptic_val").ignore_label == 254
assert MetadataCatalog.get("ade20k_sem_seg_val").stuff_colors == [(1, 2, 3)]
assert len(MetadataCatalog.get("ade20k_sem_seg_train").stuff_colors) == 150
assert "ade20k_panoptic_train" in DatasetCatalog
"""
    run(script, DETECTRON2_DATASETS="/nowhere")


def test_real_coco_panoptic_images_are_mapped(datasets_root: Path):
    if not (datasets_root / "coco").is_dir():
        pytest.skip("no COCO")
    script = """
from detectron2.data import DatasetCatalog
from mask_former.d2.data.checks import check_dataset
from mask_former.d2.data.mappers import MaskFormerPanopticDatasetMapper
check_dataset("coco_2017_val_panoptic", 133)
mapper = MaskFormerPanopticDatasetMapper(augmentations=[], image_format="RGB", ignore_label=255,
    size_divisibility=-1, num_classes=133)
for sample in DatasetCatalog.get("coco_2017_val_panoptic"):
    instances = mapper(sample)["instances"]
    kept = [segment for segment in sample["segments_info"] if not segment["iscrowd"]]
    areas = instances.gt_masks.sum((1, 2)).tolist()
    assert areas == [segment["area"] for segment in kept], (areas, kept)
    print(len(kept))
"""
    counts = run(script, DETECTRON2_DATASETS=str(datasets_root)).split()
    assert len(counts) == 2
    assert all(int(count) > 3 for count in counts)
