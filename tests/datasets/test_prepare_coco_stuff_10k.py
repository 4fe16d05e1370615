"""COCO-Stuff-10K: MATLAB's label maps, from 1 on and column by column, to label files."""

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from mask_former.d2.data.datasets import register_all
from mask_former.d2.data.mappers import MaskFormerSemanticDatasetMapper

STEM = "prepare_coco_stuff_10k_v1.0_sem_seg"
NAMES = {
    "test": ["COCO_train2014_000000000077"],
    "train": [f"COCO_train2014_{i:012d}" for i in (64, 81, 110)],
}


@pytest.fixture
def script(load_script):
    return load_script(STEM)


def write_mat(path: Path, labels: np.ndarray) -> None:
    """A MATLAB 7.3 file of labels [H, W]: HDF5 behind 512 bytes, matrices transposed, doubles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("S", data=labels.T.astype(np.float64))
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def labels_of(name: str) -> np.ndarray:
    labels = np.random.RandomState(int(name[-4:])).randint(1, 173, (6, 8))
    labels[0, :3] = (1, 2, 172)
    return labels


@pytest.fixture
def root(data: Path, write: Callable) -> Path:
    """A miniature of the release."""
    folder = data / "coco" / "coco_stuff_10k"
    (folder / "imageLists").mkdir(parents=True)
    for split, names in NAMES.items():
        (folder / "imageLists" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            image = np.random.RandomState(int(name[-4:])).randint(0, 256, (6, 8, 3))
            write(folder / "images" / f"{name}.jpg", image.astype(np.uint8))
            write_mat(folder / "annotations" / f"{name}.mat", labels_of(name))
    return folder


def check_outputs(root: Path, read: Callable) -> None:
    for split, names in NAMES.items():
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            folder = root / f"{kind}_detectron2" / split
            assert sorted(p.name for p in folder.iterdir()) == [f"{n}.{suffix}" for n in names]
        for name in names:
            labels = labels_of(name)
            prepared = read(root / "annotations_detectron2" / split / f"{name}.png")
            assert prepared.dtype == np.uint8
            np.testing.assert_array_equal(prepared, np.where(labels == 1, 255, labels - 2))
            image = root / "images_detectron2" / split / f"{name}.jpg"
            assert image.read_bytes() == (root / "images" / f"{name}.jpg").read_bytes()


def test_miniature_loads_and_maps(script, root: Path, read: Callable):
    script.main(["--workers", "1"])
    check_outputs(root, read)
    register_all()
    mapper = MaskFormerSemanticDatasetMapper(
        augmentations=[], image_format="RGB", ignore_label=255, num_classes=171
    )
    for split, names in NAMES.items():
        samples = DatasetCatalog.get(f"coco_2017_{split}_stuff_10k_sem_seg")
        assert [Path(sample["file_name"]).stem for sample in samples] == names
        for sample, name in zip(samples, names, strict=True):
            classes = sorted(set((labels_of(name) - 2).flat) - {-1})
            assert mapper(sample)["instances"].gt_classes.tolist() == classes


def test_kill_and_resume(script, root: Path, data: Path, read: Callable, kill_when_blocked):
    hole = root / "images" / f"{NAMES['train'][1]}.jpg"

    def outputs() -> list[Path]:
        return [path for path in root.glob("*_detectron2/*/*") if not path.name.startswith(".")]

    finished = kill_when_blocked(STEM, data, hole, outputs, 6)
    script.main(["--workers", "1"])
    check_outputs(root, read)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_broken_outputs_are_made_again(script, root: Path, read: Callable, write: Callable):
    script.main(["--workers", "1"])
    image = root / "images_detectron2" / "train" / f"{NAMES['train'][0]}.jpg"
    image.write_bytes(image.read_bytes()[:100])
    labels = root / "annotations_detectron2" / "train" / f"{NAMES['train'][1]}.png"
    write(labels, np.zeros((6, 8), np.uint8))  # of the right size and range
    script.main(["--workers", "1"])
    check_outputs(root, read)


@pytest.mark.parametrize("value", [0, 173, 182])
def test_the_annotations_of_another_release(script, root: Path, value: int):
    path = root / "annotations" / f"{NAMES['train'][1]}.mat"
    write_mat(path, np.where(np.eye(6, 8), value, 5))
    with pytest.raises(SystemExit, match=rf"annotation {path} has labels .*{value}.* v1\.0"):
        script.main(["--workers", "1"])


def test_size_of_the_image(script, root: Path):
    path = root / "annotations" / f"{NAMES['test'][0]}.mat"
    write_mat(path, np.full((8, 6), 5))
    with pytest.raises(SystemExit, match=f"{path} is 6x8 pixels .* but 8x6 is expected"):
        script.main(["--workers", "1"])


def test_broken_and_missing_sources_are_named(script, root: Path):
    path = root / "annotations" / f"{NAMES['test'][0]}.mat"
    with h5py.File(path, "w") as file:
        file["T"] = np.zeros((2, 2))
    with pytest.raises(SystemExit, match=f"annotation {path} cannot be read"):
        script.main(["--workers", "1"])
    path.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(SystemExit, match=f"annotation {path} cannot be read"):
        script.main(["--workers", "1"])
    path.unlink()
    with pytest.raises(SystemExit, match=f"annotation {path} does not exist"):
        script.main(["--workers", "1"])
    (root / "imageLists" / "test.txt").write_text("\n")
    with pytest.raises(SystemExit, match=r"test\.txt is empty"):
        script.main(["--workers", "1"])
    (root / "imageLists" / "test.txt").unlink()
    with pytest.raises(SystemExit, match=r"image list .*test\.txt does not exist"):
        script.main(["--workers", "1"])


def test_missing_folder_names_the_variable(script, data: Path):
    with pytest.raises(SystemExit, match=r"coco_stuff_10k does not exist.*DETECTRON2_DATASETS"):
        script.main([])


def test_without_h5py(script, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "h5py", None)  # as Python marks what cannot be imported
    with pytest.raises(SystemExit, match="needs h5py; run `pip install h5py`"):
        script.main(["--workers", "1"])
