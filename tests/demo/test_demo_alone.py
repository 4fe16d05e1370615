"""The demo with a checkpoint that carries its configuration and classes, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

from mask_former.commands import demo
from tests.demo.running import PANOPTIC, SHAPES, read, sentence


@pytest.mark.parametrize("by_flag", [True, False])
def test_names_and_colours_are_the_files(
    checkpoint: Path,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_flag: bool,
) -> None:
    weights = ["MODEL.WEIGHTS", str(checkpoint)]
    few = ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "3"]
    shared = ["--input", str(pictures[0]), "--confidence-threshold", "0", "--save", "overlay"]
    shared += ["json", "color", "--output"]
    demo.main([*SHAPES, *shared, str(tmp_path / "with"), "--opts", *few, *weights, *PANOPTIC])
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    monkeypatch.chdir(tmp_path)
    alone = ["--weights", str(checkpoint)] if by_flag else []
    opts = PANOPTIC if by_flag else [*weights, *PANOPTIC]
    demo.main([*alone, *shared, str(tmp_path / "alone"), "--opts", *opts])
    for path in sorted((tmp_path / "with").iterdir()):
        found = tmp_path / "alone" / path.name
        if path.suffix == ".json":
            assert json.loads(found.read_text()) == json.loads(path.read_text())
        else:
            np.testing.assert_array_equal(read(found), read(path))
    assert len(list((tmp_path / "alone").iterdir())) == 3


def test_a_file_that_does_not_suffice(
    weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    file, few = weights[-1], weights[:2]
    argv = ["--input", str(pictures[0]), "--output", str(tmp_path / "o.png"), "--weights", file]
    assert f"{file} does not carry its configuration" in sentence(argv)
    demo.main([*SHAPES, *argv, "--opts", *few])
    assert (tmp_path / "o.png").is_file()


def test_without_both_the_published_configuration_is_meant(
    weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    argv = ["--input", str(pictures[0]), "--output", str(tmp_path / "o.png"), "--opts"]
    assert "7 classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 150" in sentence([*argv, *weights])
