"""Swin files keep their names and tensors, and are read without running what is in them."""

import os
import pickle
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mask_former.d2.weights.reading import read_weights

WEIGHTS = {
    "patch_embed.proj.weight": torch.arange(12.0).reshape(1, 3, 2, 2),
    "layers.0.blocks.1.attn_mask": torch.ones(2, 4, 4),
    "layers.0.blocks.0.attn.relative_position_index": torch.arange(4).reshape(2, 2),
    "norm.weight": torch.ones(3),
    "head.bias": torch.zeros(2),
}


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, str]:
    return str(tmp_path / "swin.pth"), str(tmp_path / "swin.pkl")


def test_file(tool: ModuleType, paths: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    torch.save({"model": WEIGHTS}, paths[0])
    tool.main(paths)
    with open(paths[1], "rb") as file:
        content = pickle.load(file)
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["__author__"] == "third_party"
    assert content["matching_heuristics"] is True
    assert list(content["model"]) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        torch.testing.assert_close(content["model"][name], value, rtol=0, atol=0)
    assert capsys.readouterr().out == f"{paths[1]}: 5 tensors\n"


def test_what_stands_beside_the_weights_stays_behind(tool: ModuleType, paths: tuple[str, str]):
    torch.save({"model": WEIGHTS, "mask_former": {"config": ""}, "iteration": 3}, paths[0])
    tool.main(paths)
    assert set(read_weights(paths[1])) == {"model", "__author__", "matching_heuristics"}


def test_our_safe_reader_reads_it(tool: ModuleType, paths: tuple[str, str]):
    torch.save({"model": WEIGHTS}, paths[0])
    tool.main(paths)
    content = read_weights(paths[1])
    assert content["matching_heuristics"] is True
    for name, value in WEIGHTS.items():
        torch.testing.assert_close(torch.as_tensor(content["model"][name]), value)


def test_other_weights_are_refused(tool: ModuleType, paths: tuple[str, str]):
    torch.save({"model": {"conv1.weight": torch.zeros(1)}}, paths[0])
    with pytest.raises(SystemExit, match=r"no weights of a Swin Transformer: conv1\.weight"):
        tool.main(paths)
    assert not os.path.exists(paths[1])


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_hostile_input_is_refused(tool: ModuleType, paths: tuple[str, str], tmp_path: Path):
    torch.save({"model": WEIGHTS, "more": Hostile(tmp_path / "trap")}, paths[0])
    with pytest.raises(SystemExit, match="mkdir"):
        tool.main(paths)
    assert not (tmp_path / "trap").exists()
    assert not os.path.exists(paths[1])


def test_the_option_that_a_refusal_advises(tool: ModuleType, paths: tuple[str, str], tmp_path):
    torch.save({"model": WEIGHTS, "more": Hostile(tmp_path / "mine")}, paths[0])
    with pytest.raises(SystemExit, match="give --trust-weights"):
        tool.main(paths)
    tool.main([*paths, "--trust-weights"])
    assert (tmp_path / "mine").exists()
    assert len(read_weights(paths[1])["model"]) == len(WEIGHTS)


def test_the_input_is_not_overwritten(tool: ModuleType, tmp_path: Path):
    path = tmp_path / "swin.pth"
    torch.save({"model": WEIGHTS}, path)
    before = path.read_bytes()
    (tmp_path / "link.pkl").symlink_to(path)
    for output in (path, tmp_path / "link.pkl"):
        with pytest.raises(SystemExit, match=f"error: {output} is the input; give another name"):
            tool.main([str(path), str(output)])
    assert path.read_bytes() == before


def test_what_is_no_file_of_weights_is_told_without_keys_of_a_config(tool, paths):
    Path(paths[0]).write_bytes(b"nothing")
    with pytest.raises(SystemExit) as caught:
        tool.main(paths)
    assert str(caught.value).startswith(f"error: cannot read the weights {paths[0]} (")
    assert "MODEL.WEIGHTS" not in str(caught.value)
