"""Semantic ADE20K: ids one lower, 0 ignored; on a miniature, and on copies of real samples."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets import load_sem_seg

from mask_former.d2.data.mappers import MaskFormerSemanticDatasetMapper
from mask_former.d2.errors import InputError

STEM = "prepare_ade20k_sem_seg"
NAMES = {
    "training": [f"ADE_train_{i:08d}" for i in range(1, 7)],
    "validation": ["ADE_val_00000001"],
}


@pytest.fixture
def script(load_script):
    return load_script(STEM)


@pytest.fixture
def root(data: Path, write: Callable) -> Path:
    """A miniature of the release; annotations are palette PNGs in one split, grey in the other."""
    random = np.random.RandomState(0)
    folder = data / "ADEChallengeData2016"
    for split, names in NAMES.items():
        for name in names:
            labels = random.randint(0, 151, (6, 8)).astype(np.uint8)
            mode = "P" if split == "training" else "L"
            write(folder / "annotations" / split / f"{name}.png", labels, mode)
            image = random.randint(0, 256, (6, 8, 3)).astype(np.uint8)
            write(folder / "images" / split / f"{name}.jpg", image)
    return folder


def check_outputs(root: Path, read: Callable) -> None:
    for split, names in NAMES.items():
        target = root / "annotations_detectron2" / split
        assert sorted(path.name for path in target.iterdir()) == [f"{name}.png" for name in names]
        for name in names:
            source = read(root / "annotations" / split / f"{name}.png").astype(int)
            expected = np.where(source == 0, 255, source - 1)
            prepared = read(target / f"{name}.png")
            assert prepared.dtype == np.uint8
            np.testing.assert_array_equal(prepared, expected)


def test_miniature(script, root: Path, read: Callable, capsys):
    script.main(["--workers", "1"])
    check_outputs(root, read)
    shown = capsys.readouterr()
    folder = root / "annotations_detectron2" / "training"
    assert f"{folder}: 6 files verified (the release has 20210)" in shown.out
    assert "training: 100%" in shown.err


def test_convert_by_hand(script, tmp_path: Path, write: Callable, read: Callable):
    source = write(tmp_path / "in.png", np.array([[0, 1, 2], [150, 151, 255]], np.uint8))
    script.convert(source, tmp_path / "out.png")
    np.testing.assert_array_equal(read(tmp_path / "out.png"), [[255, 0, 1], [149, 150, 254]])


def test_loads_and_maps(script, root: Path, read: Callable):
    script.main(["--workers", "1"])
    check_mapped(root, "training", read, 6)


def check_mapped(root: Path, split: str, read: Callable, count: int) -> None:
    """Loads as Detectron2's ``ade20k_sem_seg`` does, whose root is fixed when it is imported."""
    labels = root / "annotations_detectron2" / split
    samples = load_sem_seg(str(labels), str(root / "images" / split), "png", "jpg")
    mapper = MaskFormerSemanticDatasetMapper(
        augmentations=[], image_format="RGB", ignore_label=255, num_classes=150
    )
    assert len(samples) == count
    for sample in samples:
        classes = set(np.unique(read(Path(sample["sem_seg_file_name"]))).tolist()) - {255}
        assert set(mapper(sample)["instances"].gt_classes.tolist()) == classes


def test_kill_and_resume(root: Path, data: Path, read: Callable, kill_when_blocked, run_program):
    target = root / "annotations_detectron2" / "training"
    hole = root / "annotations" / "training" / f"{NAMES['training'][3]}.png"
    (root / "images" / "training" / f"{hole.stem}.jpg").unlink()  # else its head is read first
    finished = kill_when_blocked(STEM, data, hole, lambda: list(target.glob("*.png")), 5)

    code, shown, errors = run_program(STEM, data)  # without arguments

    assert code == 0, errors
    assert shown.count("files verified") == 2
    check_outputs(root, read)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_a_broken_or_wrong_output_is_made_again(script, root: Path, read: Callable, write):
    script.main(["--workers", "1"])
    target = root / "annotations_detectron2" / "training"
    broken, small, wrong, zeros, raw = (target / f"{name}.png" for name in NAMES["training"][:5])
    broken.write_bytes(broken.read_bytes()[:-30])
    write(small, np.zeros((3, 3), np.uint8))
    write(wrong, np.full((6, 8), 200, np.uint8))
    write(zeros, np.zeros((6, 8), np.uint8))  # of the right size and range
    shutil.copyfile(root / "annotations" / "training" / raw.name, raw)
    script.main(["--workers", "1"])
    check_outputs(root, read)


def test_names_the_first_bad_source(script, root: Path, write: Callable):
    folder = root / "annotations" / "training"
    second, fourth = (folder / f"{NAMES['training'][i]}.png" for i in (1, 3))
    write(fourth, np.full((6, 8), 170, np.uint8))
    write(second, np.full((6, 8), 160, np.uint8))
    with pytest.raises(SystemExit, match=f"made from {second}, has ids 159, but the"):
        script.main(["--workers", "1"])


def test_labels_must_have_the_size_of_the_image(script, root: Path, write: Callable):
    source = root / "annotations" / "validation" / "ADE_val_00000001.png"
    write(source, np.zeros((6, 9), np.uint8))
    with pytest.raises(SystemExit, match=f"{source} is 9x6 pixels .* but 8x6 is expected"):
        script.main(["--workers", "1"])


def test_refuses_colours_and_broken_files(script, tmp_path: Path, write: Callable):
    colours = write(tmp_path / "rgb.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(InputError, match=r"rgb\.png has values of type uint8 in the shape \(2"):
        script.convert(colours, tmp_path / "out.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png cannot be read"):
        script.convert(tmp_path / "broken.png", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_strangers_among_the_outputs_are_named(script, root: Path, write: Callable):
    stranger = root / "annotations_detectron2" / "validation" / "ADE_val_00000009.png"
    write(stranger, np.zeros((6, 8), np.uint8))
    with pytest.raises(SystemExit, match=f"{stranger} was not prepared from this data set"):
        script.main(["--workers", "1"])


def test_missing_folder_names_the_variable(script, data: Path):
    with pytest.raises(SystemExit) as exit_:
        script.main([])
    assert str(exit_.value).startswith(f"error: {data}/ADEChallengeData2016 does not exist")
    assert f"DETECTRON2_DATASETS is '{data}'" in str(exit_.value)


def test_a_missing_split_is_told(script, root: Path, capsys):
    shutil.rmtree(root / "annotations" / "training")
    script.main(["--workers", "1"])
    assert "annotations/training does not exist: the split is left out" in capsys.readouterr().out
    shutil.rmtree(root / "annotations" / "validation")
    with pytest.raises(SystemExit, match="none of the folders training, validation"):
        script.main(["--workers", "1"])


@pytest.mark.parametrize("workers", ["0", "-1", "x"])
def test_workers_must_be_a_number(script, capsys, workers: str):
    with pytest.raises(SystemExit):
        script.main(["--workers", workers])
    assert f"{workers!r} is not a whole number >= 1" in capsys.readouterr().err


def test_real_samples(script, datasets_root: Path, data: Path, copy_real, read: Callable):
    root = copy_real(datasets_root / "ADEChallengeData2016", data / "ADEChallengeData2016")
    script.main(["--workers", "1"])
    for name in ("ADE_val_00000001", "ADE_val_00000002", "ADE_val_00000003"):
        source = read(root / "annotations" / "validation" / f"{name}.png").astype(int)
        prepared = read(root / "annotations_detectron2" / "validation" / f"{name}.png")
        np.testing.assert_array_equal(prepared, (source - 1) % 256)
    check_mapped(root, "validation", read, 3)
