"""ADE20K-Full: object indices in colours to 847 classes, shorter side at most 512."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from mask_former.d2.data.datasets import register_all
from mask_former.d2.data.mappers import MaskFormerSemanticDatasetMapper
from mask_former.d2.errors import InputError

STEM = "prepare_ade20k_full_sem_seg"
FOLDER = "ADE20K_2021_17_01"
WALL, BUILDING, UNUSED = 2978, 312, 5  # object indices; classes 0, 1 and none
NAMES = [*(f"ADE_train_{i:08d}.jpg" for i in range(1, 5)), "ADE_val_00000001.jpg"]


@pytest.fixture
def script(load_script):
    return load_script(STEM)


def encode(indices: np.ndarray) -> np.ndarray:
    """Colours [H, W, 3] of object indices [H, W], as in the release; blue counts instances."""
    red, green = indices // 256 * 10, indices % 256
    return np.stack([red, green, 7 + 0 * red], axis=-1).astype(np.uint8)


def write_index(root: Path, names: list[str], **more: object) -> Path:
    folders = [f"{FOLDER}/images/ADE/{n.split('_')[1]}/street" for n in names]
    index = {**more, "filename": names, "folder": folders}
    path = root / "index_ade20k.pkl"
    path.write_bytes(pickle.dumps(index))
    return path


def indices_of(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).choice([WALL, BUILDING, UNUSED], shape)


@pytest.fixture
def root(data: Path, write: Callable) -> Path:
    """A miniature: five images with the index, which holds arrays as well as lists."""
    folder = data / FOLDER
    for i, name in enumerate(NAMES):
        where = folder / "images" / "ADE" / name.split("_")[1] / "street"
        image = np.random.RandomState(i).randint(0, 256, (12, 16, 3)).astype(np.uint8)
        write(where / name, image)
        write(where / name.replace(".jpg", "_seg.png"), encode(indices_of((12, 16), i)))
    write_index(folder, NAMES, objectPresence=np.eye(3), description="ADE20K")
    return folder


def check_outputs(root: Path, read: Callable) -> None:
    for i, name in enumerate(NAMES):
        split = "validation" if "_val_" in name else "training"
        labels = read(root / "annotations_detectron2" / split / name.replace(".jpg", ".tif"))
        indices = indices_of((12, 16), i)
        expected = np.select([indices == WALL, indices == BUILDING], [0, 1], 65535)
        assert labels.dtype == np.uint16
        np.testing.assert_array_equal(labels, expected)
        assert read(root / "images_detectron2" / split / name).shape == (12, 16, 3)
    for kind in ("images_detectron2", "annotations_detectron2"):
        assert len(list((root / kind / "training").iterdir())) == 4
        assert len(list((root / kind / "validation").iterdir())) == 1


def test_miniature_loads_and_maps(script, root: Path, read: Callable):
    script.main(["--workers", "1"])
    check_outputs(root, read)
    register_all()
    mapper = MaskFormerSemanticDatasetMapper(
        augmentations=[], image_format="RGB", ignore_label=65535, num_classes=847
    )
    for name, count in (("ade20k_full_sem_seg_train", 4), ("ade20k_full_sem_seg_val", 1)):
        samples = DatasetCatalog.get(name)
        assert len(samples) == count
        for sample in samples:
            assert mapper(sample)["instances"].gt_classes.tolist() == [0, 1]


def test_every_class_has_its_object_index(script, tmp_path: Path, shared: Path, write: Callable):
    facts = json.loads((shared / "spec" / "categories" / "ade20k_full_847.json").read_text())
    at = {column: i for i, column in enumerate(facts["columns"])}
    [train_id] = [i for column, i in at.items() if "train" in column.lower()]
    [index] = [i for column, i in at.items() if "index" in column.lower()]
    rows = facts["rows"]
    path = write(tmp_path / "seg.png", encode(np.array([[row[index] for row in rows]])))
    assert script.read_labels(path)[0].tolist() == [row[train_id] for row in rows]


def test_red_counts_in_tens(script, tmp_path: Path, write: Callable):
    colors = np.array([[[119, 162, 3], [110, 162, 0], [120, 162, 0]]], np.uint8)
    assert WALL == 11 * 256 + 162
    assert script.read_labels(write(tmp_path / "seg.png", colors))[0, :2].tolist() == [0, 0]
    assert script.read_labels(tmp_path / "seg.png")[0, 2] != 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 700), (512, 700)),
        ((513, 513), (512, 512)),
        ((2048, 1536), (683, 512)),  # 682.67
        ((1536, 2048), (512, 683)),
        ((300, 4000), (300, 4000)),
        ((1024, 1025), (512, 512)),  # 512.5, rounded to even
    ],
)
def test_prepared_size(script, size: tuple[int, int], expected: tuple[int, int]):
    assert script.prepared_size(size) == expected


def test_large_pictures_are_resized(script, data: Path, write: Callable, read: Callable):
    root, name = data / FOLDER, "ADE_train_00000001.jpg"
    where = root / "images" / "ADE" / "train" / "street"
    indices = np.where(np.arange(1536)[:, None] < 600, WALL, BUILDING) + np.zeros((1, 1024), int)
    image = np.where(indices == WALL, 40, 200)[..., None].repeat(3, -1).astype(np.uint8)
    write(where / name, image)
    write(where / name.replace(".jpg", "_seg.png"), encode(indices))
    write_index(root, [name])
    script.main(["--workers", "1"])
    labels = read(root / "annotations_detectron2" / "training" / "ADE_train_00000001.tif")
    expected = np.where(np.arange(768)[:, None] < 300, 0, 1) + np.zeros((1, 512), int)
    np.testing.assert_array_equal(labels, expected)
    prepared = read(root / "images_detectron2" / "training" / name).astype(int)
    assert prepared.shape == (768, 512, 3)
    assert np.abs(prepared - np.where(expected == 0, 40, 200)[..., None])[:298].max() <= 3


def test_splits_by_name(script):
    assert script.split_of("ADE_val_00000001.jpg") == "validation"
    assert script.split_of("ADE_train_00000001.jpg") == "training"
    assert script.split_of("val.jpg") == "training"


def test_kill_and_resume(script, root: Path, data: Path, read: Callable, kill_when_blocked):
    target = root / "annotations_detectron2"
    hole = root / "images" / "ADE" / "train" / "street" / "ADE_train_00000003_seg.png"
    images = root / "images_detectron2"

    def outputs() -> list[Path]:
        return [*target.glob("*/*.tif"), *images.glob("*/*.jpg")]

    finished = kill_when_blocked(STEM, data, hole, outputs, 8)
    script.main(["--workers", "1"])
    check_outputs(root, read)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_broken_outputs_are_made_again(script, root: Path, read: Callable, write: Callable):
    script.main(["--workers", "1"])
    image = root / "images_detectron2" / "training" / NAMES[0]
    image.write_bytes(image.read_bytes()[:300])
    labels = root / "annotations_detectron2" / "training" / NAMES[1].replace(".jpg", ".tif")
    write(labels, np.zeros((12, 16), np.uint16))  # of the right size and range
    script.main(["--workers", "1"])
    check_outputs(root, read)


class Hostile:
    """Runs code wherever an ordinary unpickler reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_an_empty_index_is_told(script, root: Path):
    write_index(root, [])
    with pytest.raises(SystemExit, match=r"index .*index_ade20k.pkl is empty; unpack"):
        script.main(["--workers", "1"])


def test_nothing_in_the_index_runs(script, root: Path, read: Callable, tmp_path: Path):
    trap = tmp_path / "trap"
    path = write_index(root, NAMES, scene=Hostile(trap), array=np.zeros(3))
    script.main(["--workers", "1"])
    check_outputs(root, read)
    assert not trap.exists()
    pickle.loads(path.read_bytes())
    assert trap.exists()  # it would have


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"filename": ["a.jpg"], "folder": []}),
        pickle.dumps({"filename": ["a.jpg"]}),
        pickle.dumps({"filename": np.array(["a"]), "folder": ["b"]}),
        pickle.dumps(["a.jpg"]),
    ],
)
def test_what_is_no_index_is_refused(script, tmp_path: Path, content: bytes):
    path = tmp_path / "index.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"index {path} has no two equally long lists"):
        script.read_index(path)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"filename": ["a"]})[:20]])
def test_a_broken_index_is_refused(script, tmp_path: Path, content: bytes):
    path = tmp_path / "index.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"index {path} cannot be read"):
        script.read_index(path)


@pytest.mark.parametrize("name", ["../ADE_train_1.jpg", "ADE_train_1.png"])
def test_names_that_lead_elsewhere_are_refused(script, root: Path, name: str):
    write_index(root, [name])
    with pytest.raises(SystemExit, match=f"lists '{name}', which is no name of a .jpg file"):
        script.main(["--workers", "1"])


def test_bad_sources_are_named(script, root: Path, write: Callable):
    where = root / "images" / "ADE" / "train" / "street"
    labels = where / NAMES[0].replace(".jpg", "_seg.png")
    good = labels.read_bytes()
    write(labels, encode(indices_of((12, 17))))
    with pytest.raises(SystemExit, match=f"{labels} is 17x12 pixels .* but 16x12 is expected"):
        script.main(["--workers", "1"])
    write(labels, np.zeros((12, 16), np.uint8))
    with pytest.raises(SystemExit, match=f"label map {labels} is not in colours"):
        script.main(["--workers", "1"])
    labels.write_bytes(good)
    (where / NAMES[1]).unlink()
    with pytest.raises(SystemExit, match=f"image {where / NAMES[1]} does not exist"):
        script.main(["--workers", "1"])


def test_missing_folder_names_the_variable(script, data: Path):
    with pytest.raises(SystemExit, match=f"{FOLDER} does not exist.*DETECTRON2_DATASETS"):
        script.main([])


def test_real_sample(script, datasets_root: Path, data: Path, copy_real, read: Callable):
    root = copy_real(datasets_root / FOLDER, data / FOLDER)
    script.main(["--workers", "1"])
    register_all()
    [sample] = DatasetCatalog.get("ade20k_full_sem_seg_train")
    mapper = MaskFormerSemanticDatasetMapper(
        augmentations=[], image_format="RGB", ignore_label=65535, num_classes=847
    )
    mapped = mapper(sample)
    assert tuple(mapped["image"].shape) == (3, 512, 683)
    # the JSON of the release names the objects of the picture
    folder = root / "images" / "ADE" / "training" / "urban" / "street"
    [description] = folder.glob("*.json")
    objects = json.loads(description.read_text(encoding="utf-8", errors="replace"))["annotation"]
    indices = {entry["name_ndx"] for entry in objects["object"]}
    table = {entry["object_index"]: entry for entry in script.read_categories("ade20k_full_847")}
    expected = {table[index]["id"] for index in indices if index in table}
    found = set(mapped["instances"].gt_classes.tolist())
    assert found <= expected
    assert len(found) >= 5
    with Image.open(folder / "ADE_train_00016869_seg.png") as picture:
        small = np.asarray(picture.resize((683, 512), Image.Resampling.NEAREST)).astype(int)
    ids = {entry["object_index"]: entry["id"] for entry in table.values()}
    by_hand = np.vectorize(lambda index: ids.get(index, 65535))(
        small[..., 0] // 10 * 256 + small[..., 1]
    )
    prepared = read(root / "annotations_detectron2" / "training" / "ADE_train_00016869.tif")
    # Pillow and OpenCV round the nearest pixel differently
    assert (prepared == by_hand).mean() > 0.95
