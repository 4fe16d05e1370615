"""Panoptic ADE20K: stuff, things over it, ids that depend on the picture alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from mask_former.d2.data.datasets import register_all
from mask_former.d2.data.mappers import MaskFormerPanopticDatasetMapper
from mask_former.d2.data.reading import rgb_to_id

STEM = "prepare_ade20k_pan_seg"
NAMES = {
    "training": [f"ADE_train_{i:08d}" for i in range(1, 7)],
    "validation": ["ADE_val_00000001"],
}
FOLDERS = {"training": "ade20k_panoptic_train", "validation": "ade20k_panoptic_val"}
# Raw ids (contiguous + 1): wall, sky and floor are stuff, bed and person are things. Bed is the
# first thing (contiguous 7), so instance class 1; person (contiguous 12) is the fourth.
WALL, SKY, FLOOR, BED, PERSON = 1, 3, 4, 8, 13
BED_INSTANCE, PERSON_INSTANCE = 1, 4
WALL_ID = 120 + 256 * 120 + 65536 * 120
SKY_ID = 6 + 256 * 230 + 65536 * 230
BED_ID = 204 + 256 * 5 + 65536 * 255
PERSON_ID = 150 + 256 * 5 + 65536 * 61


@pytest.fixture
def script(load_script):
    return load_script(STEM)


def hand_made() -> tuple[np.ndarray, np.ndarray]:
    """Semantic map and instance map of a picture of 4 rows and 6 columns.

    Wall above, sky in two pixels that a bed covers, two persons, one pixel of "other" and one of
    bed without an instance.
    """
    semantic = np.full((4, 6), WALL, np.uint8)
    semantic[3] = [SKY, SKY, PERSON, PERSON, 0, BED]
    instance = np.zeros((4, 6, 3), np.uint8)
    instance[3, :2] = (BED_INSTANCE, 1, 0)
    instance[2, 0] = (BED_INSTANCE, 1, 0)  # over the wall
    instance[3, 2] = (PERSON_INSTANCE, 2, 0)
    instance[3, 3] = (PERSON_INSTANCE, 5, 0)
    return semantic, instance


def random_picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of random classes with random instances."""
    random = np.random.RandomState(seed)
    semantic = random.randint(0, 151, (4, 5)).repeat(3, 0).repeat(4, 1).astype(np.uint8)
    numbers = random.randint(0, 8, (12, 20))
    instance_classes = random.choice([1, 1, 4, 7, 100], size=8)  # often of one class
    instance = np.stack([instance_classes[numbers], numbers, 0 * numbers], axis=-1)
    instance[numbers == 0] = 0
    return semantic, instance.astype(np.uint8)


@pytest.fixture
def root(data: Path, write: Callable) -> Path:
    """A miniature of the release with instances; semantic maps are palette PNGs."""
    folder = data / "ADEChallengeData2016"
    for split, names in NAMES.items():
        for i, name in enumerate(names):
            semantic, instance = hand_made() if i == 0 else random_picture(i)
            write(folder / "annotations" / split / f"{name}.png", semantic, "P")
            write(folder / "annotations_instance" / split / f"{name}.png", instance)
            image = np.random.RandomState(i).randint(0, 256, instance.shape).astype(np.uint8)
            write(folder / "images" / split / f"{name}.jpg", image)
    return folder


def read_json(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / f"{FOLDERS[split]}.json").read_text())


def run(script, *arguments: str) -> None:
    script.main(["--workers", "1", *arguments])


def person_ids(ids: np.ndarray) -> tuple[int, int]:
    return int(ids[3, 2]), int(ids[3, 3])


def panoptic_mapper() -> MaskFormerPanopticDatasetMapper:
    return MaskFormerPanopticDatasetMapper(
        augmentations=[], image_format="RGB", ignore_label=255, num_classes=150
    )


def test_hand_made_picture(script, root: Path, read: Callable):
    run(script)
    name = NAMES["validation"][0]
    ids = rgb_to_id(read(root / "ade20k_panoptic_val" / f"{name}.png"))
    first, second = person_ids(ids)
    expected = np.full((4, 6), WALL_ID)
    expected[2, 0] = BED_ID
    expected[3] = [BED_ID, BED_ID, first, second, 0, 0]
    np.testing.assert_array_equal(ids, expected)
    assert first == PERSON_ID
    difference = np.subtract([second % 256, second // 256 % 256, second // 65536], [150, 5, 61])
    assert second != first
    assert np.abs(difference).max() <= 30

    content = read_json(root, "validation")
    assert content["images"] == [
        {"id": name, "file_name": f"{name}.jpg", "width": 6, "height": 4},
    ]
    [annotation] = content["annotations"]
    assert (annotation["image_id"], annotation["file_name"]) == (name, f"{name}.png")
    assert annotation["segments_info"] == [
        {"id": WALL_ID, "category_id": 0, "area": 17, "bbox": [0, 0, 6, 3], "iscrowd": 0},
        {"id": BED_ID, "category_id": 7, "area": 3, "bbox": [0, 2, 2, 2], "iscrowd": 0},
        {"id": first, "category_id": 12, "area": 1, "bbox": [2, 3, 1, 1], "iscrowd": 0},
        {"id": second, "category_id": 12, "area": 1, "bbox": [3, 3, 1, 1], "iscrowd": 0},
    ]


def test_original_keeps_stuff_as_it_was_painted(script, root: Path, read: Callable):
    run(script, "--original")
    [annotation] = read_json(root, "validation")["annotations"]
    wall, sky, *things = annotation["segments_info"]
    assert wall == {
        "id": WALL_ID, "category_id": 0, "area": 18, "bbox": [0, 0, 6, 3], "iscrowd": 0,
    }  # fmt: skip
    # the bed covers all of it
    assert sky == {"id": SKY_ID, "category_id": 2, "area": 2, "bbox": [0, 3, 2, 1], "iscrowd": 0}
    assert [segment["category_id"] for segment in things] == [7, 12, 12]
    pictures = {path: path.read_bytes() for path in root.glob("ade20k_panoptic_*/*.png")}
    run(script)
    assert {path: path.read_bytes() for path in pictures} == pictures


def test_areas_and_boxes_are_those_of_the_picture(script, root: Path, read: Callable):
    run(script)
    content = read_json(root, "training")
    assert [entry["id"] for entry in content["images"]] == NAMES["training"]
    for annotation in content["annotations"]:
        name, segments = annotation["image_id"], annotation["segments_info"]
        ids = rgb_to_id(read(root / "ade20k_panoptic_train" / f"{name}.png"))
        assert sorted(segment["id"] for segment in segments) == sorted(set(ids.flat) - {0})
        semantic = read(root / "annotations" / "training" / f"{name}.png").astype(int)
        instance = read(root / "annotations_instance" / "training" / f"{name}.png").astype(int)
        for segment in segments:
            rows, columns = np.nonzero(ids == segment["id"])
            x, y, width, height = segment["bbox"]
            assert segment["area"] == len(rows)
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
            if script.categories()[segment["category_id"]]["isthing"]:
                [number] = set(instance[rows, columns, 1])
                assert (instance[..., 1] == number).sum() == segment["area"]
            else:
                assert set(semantic[rows, columns]) == {segment["category_id"] + 1}
                assert set(instance[rows, columns, 1]) == {0}


def test_ids_depend_on_the_picture_alone(script, run_program, root: Path, data: Path):
    code, _, errors = run_program(STEM, data, "--workers", "2")
    assert code == 0, errors
    kept = {path.name: path.read_bytes() for path in root.glob("ade20k_panoptic_*/*.png")}
    contents = [(root / f"{name}.json").read_text() for name in FOLDERS.values()]
    for path in root.glob("ade20k_panoptic_*/*.png"):
        path.unlink()
    run(script)
    assert {path.name: path.read_bytes() for path in root.glob("ade20k_panoptic_*/*.png")} == kept
    assert [(root / f"{name}.json").read_text() for name in FOLDERS.values()] == contents
    for folder in ("annotations", "ade20k_panoptic_train"):  # fewer pictures, the same ids
        where = root / folder / ("training" if folder == "annotations" else "")
        for name in NAMES["training"][:3]:
            (where / f"{name}.png").unlink()
    run(script)
    for name in NAMES["training"][3:]:
        path = root / "ade20k_panoptic_train" / f"{name}.png"
        assert path.read_bytes() == kept[path.name]
    assert len(read_json(root, "training")["annotations"]) == 3


def test_categories_and_colours(script, root: Path, shared: Path):
    run(script)
    facts = shared / "spec" / "categories"
    listed = read_json(root, "validation")["categories"]
    palette = json.loads((facts / "ade20k_150_prep_palette.json").read_text())
    assert [entry["color"] for entry in listed] == palette
    assert len({tuple(color) for color in palette}) == 150
    assert [entry["id"] for entry in listed] == list(range(150))
    assert sum(entry["isthing"] for entry in listed) == 100
    rows = json.loads((facts / "ade20k_instance_to_scene.json").read_text())["rows"]
    assert {(i + 1, thing + 1) for i, thing in enumerate(script.thing_ids())} == {
        (instance, scene) for instance, scene, _ in rows
    }


def test_colours_of_many_instances_are_unused_and_near(script):
    colors = script.ThingColors()
    base = script.categories()[12]["color"]
    drawn = [colors.draw(12) for _ in range(255)]
    stuff = {tuple(entry["color"]) for entry in script.categories() if not entry["isthing"]}
    assert drawn[0] == tuple(base)
    assert len(set(drawn)) == 255
    assert not set(drawn) & {(0, 0, 0), *stuff}
    assert np.abs(np.array(drawn) - base).max() <= 30
    assert np.array(drawn).min() >= 0


@pytest.mark.parametrize("flags", [(), ("--original",)])
def test_loads_and_maps(script, load_script, root: Path, flags: tuple[str, ...], read: Callable):
    run(script, *flags)
    load_script("prepare_ade20k_sem_seg").main(["--workers", "1"])
    register_all()
    samples = DatasetCatalog.get("ade20k_panoptic_train")
    mapper = MaskFormerPanopticDatasetMapper(
        augmentations=[], image_format="RGB", ignore_label=255, num_classes=150
    )
    assert [sample["image_id"] for sample in samples] == NAMES["training"]
    for sample in samples:
        instances = mapper(sample)["instances"]
        categories = [segment["category_id"] for segment in sample["segments_info"]]
        assert instances.gt_classes.tolist() == categories
        if not flags:
            areas = [segment["area"] for segment in sample["segments_info"]]
            assert instances.gt_masks.sum(dim=(1, 2)).tolist() == areas


def test_kill_and_resume(script, root: Path, data: Path, kill_when_blocked):
    hole = root / "annotations_instance" / "training" / f"{NAMES['training'][2]}.png"
    target = root / "ade20k_panoptic_train"
    finished = kill_when_blocked(STEM, data, hole, lambda: list(target.glob("*.png")), 5)
    assert not (root / "ade20k_panoptic_train.json").exists()

    run(script)

    resumed = {path: path.stat().st_mtime_ns for path in target.glob("*.png")}
    assert len(resumed) == 6
    assert {path: resumed[path] for path in finished} == finished
    written = {path.name: path.read_bytes() for path in root.glob("ade20k_panoptic_train*/*")}
    content = (root / "ade20k_panoptic_train.json").read_bytes()
    for path in target.iterdir():
        path.unlink()
    run(script)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == written
    assert (root / "ade20k_panoptic_train.json").read_bytes() == content


def test_a_wrong_output_is_made_again(script, root: Path, write: Callable):
    run(script)
    path = root / "ade20k_panoptic_val" / f"{NAMES['validation'][0]}.png"
    content = path.read_bytes()
    for wrong in (content[:50], b""):
        path.write_bytes(wrong)
        run(script)
        assert path.read_bytes() == content
    write(path, np.zeros((4, 6, 3), np.uint8))
    run(script)
    assert path.read_bytes() == content


def instances_of(value: tuple[int, int], size: tuple[int, int] = (4, 6)) -> np.ndarray:
    instance = np.zeros((*size, 3), np.uint8)
    instance[0, 0] = (*value, 0)
    return instance


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        (instances_of((0, 3)), r"instance 3 has the classes \[0\], but one of 1 to 100"),
        (instances_of((101, 3)), r"instance 3 has the classes \[101\], but one of 1 to 100"),
        (instances_of((1, 1), (4, 7)), r"has the shape \(4, 7, 3\) and type uint8"),
        (np.zeros((4, 6), np.uint8), r"has the shape \(4, 6\) and type uint8"),
    ],
)
def test_bad_instances_are_named(script, root, write, instance: np.ndarray, message: str):
    path = root / "annotations_instance" / "validation" / "ADE_val_00000001.png"
    write(path, instance)
    with pytest.raises(SystemExit, match=f"instance map {path}:? {message}"):
        run(script)


def test_two_classes_in_one_instance(script, root: Path, write: Callable):
    instance = instances_of((1, 2))
    instance[1, 1] = (4, 2, 0)
    path = root / "annotations_instance" / "training" / f"{NAMES['training'][1]}.png"
    write(path, np.pad(instance, ((0, 8), (0, 14), (0, 0))))
    with pytest.raises(SystemExit, match=rf"{path}: instance 2 has the classes \[1, 4\]"):
        run(script)


def test_bad_semantic_ids_and_missing_files_are_named(script, root: Path, write: Callable):
    semantic = root / "annotations" / "validation" / "ADE_val_00000001.png"
    good = semantic.read_bytes()
    write(semantic, np.full((4, 6), 180, np.uint8))
    with pytest.raises(SystemExit, match=rf"{semantic} has ids \[180\], but 0 to 150"):
        run(script)
    semantic.write_bytes(good)
    instance = root / "annotations_instance" / "validation" / "ADE_val_00000001.png"
    instance.unlink()
    with pytest.raises(SystemExit, match=f"instance map {instance} does not exist"):
        run(script)


def test_missing_instances_are_named(script, data: Path):
    (data / "ADEChallengeData2016").mkdir()
    with pytest.raises(SystemExit, match=r"annotations_instance does not exist.*DETECTRON2"):
        run(script)


def components(semantic: np.ndarray, things: list[int]) -> np.ndarray:
    """Instance map of a semantic map: every component of a thing class is an instance."""
    instance = np.zeros((*semantic.shape, 3), np.uint8)
    number = 0
    for i, thing in enumerate(things):
        count, labels = cv2.connectedComponents((semantic == thing + 1).astype(np.uint8))
        for component in range(1, count):
            number += 1
            instance[labels == component] = (i + 1, number, 0)
    return instance


def test_real_samples(script, load_script, datasets_root, data, copy_real, write, read):
    root = copy_real(datasets_root / "ADEChallengeData2016", data / "ADEChallengeData2016")
    sources = sorted((root / "annotations" / "validation").glob("*.png"))
    for source in sources:  # the samples come without instances
        instance = components(read(source), script.thing_ids())
        write(root / "annotations_instance" / "validation" / source.name, instance)
    load_script("prepare_ade20k_sem_seg").main(["--workers", "1"])
    run(script)

    register_all()
    samples = DatasetCatalog.get("ade20k_panoptic_val")
    mapper = MaskFormerPanopticDatasetMapper(
        augmentations=[], image_format="RGB", ignore_label=255, num_classes=150
    )
    assert [sample["image_id"] for sample in samples] == [source.stem for source in sources]
    for sample, source in zip(samples, sources, strict=True):
        mapped, semantic = mapper(sample), read(source)
        assert mapped["image"].shape[1:] == semantic.shape
        covered = mapped["instances"].gt_masks.any(dim=0).numpy()
        np.testing.assert_array_equal(covered, semantic > 0)
        for label, mask in zip(
            mapped["instances"].gt_classes, mapped["instances"].gt_masks, strict=True
        ):
            assert set(semantic[mask.numpy()]) == {int(label) + 1}
