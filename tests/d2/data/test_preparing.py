"""What the preparation scripts share."""

import os
from pathlib import Path

import numpy as np
import pytest

from mask_former.d2.data import preparing
from mask_former.d2.errors import InputError


def test_results_keep_the_order_of_the_items():
    assert preparing.in_parallel(abs, [-3, 1, -2], 1, "numbers") == [3, 1, 2]
    assert preparing.in_parallel(abs, list(range(-40, 0)), 2, "numbers") == [*range(40, 0, -1)]


def test_the_first_error_of_the_workers_is_told(tmp_path: Path):
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for i, path in enumerate(paths):
        preparing.save(np.zeros((1, 1), np.uint8), path, "PNG")
        if i in (3, 6):
            path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=f"label map {paths[3]} cannot be read"):
        preparing.in_parallel(preparing.read_indices, paths, 2, "label maps")


def test_a_killed_worker_is_told():
    with pytest.raises(InputError, match=r"numbers: a worker was killed.* fewer than --workers 2"):
        preparing.in_parallel(os._exit, [1, 1], 2, "numbers")


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with preparing.replacing(path) as temporary:
            temporary.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(InputError, match=rf"{path} cannot be written \(disk full\)"):
        fail()
    assert path.read_text() == "old"
    with preparing.replacing(path) as temporary:
        assert str(os.getpid()) in temporary.name  # another run has another name
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_writes_once_what_does_not_pass():
    written = []

    def check() -> None:
        if not written:
            raise InputError("missing")

    preparing.write_unless_good(lambda: written.append(1), check)
    preparing.write_unless_good(lambda: written.append(2), check)
    assert written == [1]
    with pytest.raises(InputError, match="missing"):
        preparing.write_unless_good(lambda: written.clear(), check_never)


def check_never() -> None:
    raise InputError("missing")


def test_folder_with_other_files(tmp_path: Path):
    for name in ("a.png", "b.png", ".c.png.part", "notes.txt"):
        (tmp_path / name).touch()
    preparing.check_folder(tmp_path, {"a.png", "b.png"})
    with pytest.raises(InputError, match=f"{tmp_path / 'b.png'} was not prepared"):
        preparing.check_folder(tmp_path, {"a.png"})
    with pytest.raises(InputError, match=f"1 of 3 files are gone again, {tmp_path / 'c.png'}"):
        preparing.check_folder(tmp_path, {"a.png", "b.png", "c.png"})


def test_labels_are_checked_for_size_and_range(tmp_path: Path):
    path, source = tmp_path / "labels.png", tmp_path / "source.png"
    labels = np.array([[0, 3, 255]], np.uint8)
    preparing.save(labels, path, "PNG")
    preparing.check_labels(path, source, labels, (3, 1), 4, 255)
    with pytest.raises(InputError, match=f"{source} is 3x1 pixels .* 1x3 is expected"):
        preparing.check_labels(path, source, labels, (1, 3), 4, 255)
    with pytest.raises(InputError, match=f"{path}, made from {source}, has ids 3, but .* 0 to 2"):
        preparing.check_labels(path, source, labels, (3, 1), 3, 255)
    with pytest.raises(InputError, match=f"{path} is not what {source} gives"):
        preparing.check_labels(path, source, np.zeros_like(labels), (3, 1), 4, 255)


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    with (
        pytest.raises(SystemExit, match=r"error: .*missing/a.png cannot be written \(No such file"),
        preparing.telling_errors(),
    ):
        preparing.save(np.zeros((1, 1), np.uint8), tmp_path / "missing" / "a.png", "PNG")


def test_report_names_the_release_where_it_is_larger(capsys: pytest.CaptureFixture[str]):
    preparing.report(Path("a"), 3, 3)
    preparing.report(Path("b"), 2, 3)
    assert capsys.readouterr().out == (
        "a: 3 files verified\nb: 2 files verified (the release has 3)\n"
    )
