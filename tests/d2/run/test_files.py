"""Files that are whole or not there."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from mask_former.d2.checkpoint import Diverged, MaskFormerCheckpointer
from mask_former.d2.errors import InputError
from mask_former.d2.run.files import json_lines, remove_unfinished, replacing, require_writable


def test_what_lay_there_stays_if_anything_goes_wrong(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(TypeError), replacing(path) as file:
        file.write(b"half" if path.read_text() == "before" else b"") + "fails"
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as file:
        file.write(b"after")
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left(tmp_path):
    (tmp_path / "model.pth.17.unfinished").touch()
    (tmp_path / "model.pth").touch()
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "model.pth"]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 10 kB; writing then fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def checkpointer(folder: Path) -> MaskFormerCheckpointer:
    return MaskFormerCheckpointer(nn.Linear(100, 100), str(folder))


def test_a_full_disk(tmp_path):
    saving = checkpointer(tmp_path)
    with full_disk():
        saving.save("model_0000001")
    assert "model_0000001.pth could not be saved: " in saving.unsaved
    assert list(tmp_path.iterdir()) == []
    saving.save("model_0000003")
    assert saving.unsaved == ""
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "missing"])
def test_a_damaged_file_is_passed_over_for_the_one_before(tmp_path, damage):
    first = checkpointer(tmp_path)
    first.save("model_0000001")
    checkpointer(tmp_path).save("model_0000003")
    path = tmp_path / "model_0000003.pth"
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "torn": whole[:middle],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        }.get(damage, b"")
    )
    if damage == "missing":
        path.unlink()
    resumed = checkpointer(tmp_path)
    resumed.resume_or_load("", resume=True)
    assert torch.equal(resumed.model.weight, first.model.weight)


def test_nothing_can_be_read(tmp_path):
    checkpointer(tmp_path).save("model_0000001")
    (tmp_path / "model_0000001.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot read the weights .*model_0000001\.pth"):
        checkpointer(tmp_path).resume_or_load("", resume=True)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_what_is_not_finite_is_not_saved(tmp_path, name):
    saving = checkpointer(tmp_path)
    saving.save("model_0000001")
    with torch.no_grad():
        getattr(saving.model, name)[0] = float("inf")
    with pytest.raises(Diverged, match=rf"diverged: {name} is not finite, and model_0000003 was"):
        saving.save("model_0000003")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_another_model_is_refused_by_name_and_shape(tmp_path):
    checkpointer(tmp_path).save("model_0000001")
    resumed = MaskFormerCheckpointer(nn.Linear(100, 50), str(tmp_path))
    with pytest.raises(
        InputError, match=r"weight is \(100, 100\) in the file, \(50, 100\) in the configuration"
    ):
        resumed.resume_or_load("", resume=True)


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "a\0b"])
def test_a_folder_that_cannot_be_written_to(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"OUTPUT_DIR is .*, where no file can be written: .*; name"
    ):
        require_writable(str(tmp_path / name))


def test_a_folder_that_can_be_written_to_stays_as_it_is(tmp_path):
    require_writable(str(tmp_path / "a" / "b"))
    require_writable(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_lines_that_a_kill_has_torn_are_left_out(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_bytes(b'{"a": 1}\n{"a": \n[2]\n{"b": NaN, "c": "\xc3')
    assert json_lines(path) == [{"a": 1}, [2]]
