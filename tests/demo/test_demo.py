"""The demo on pictures: what is painted and what is written."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mask_former.commands import demo
from tests.demo.running import INSTANCE, PANOPTIC, SEMANTIC, SHAPES, read, sentence


def enlarged(path: Path) -> np.ndarray:
    """A picture of 128 pixels, as large as overlays of it."""
    return cv2.resize(read(path), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    ("opts", "threshold", "found"),
    [
        (PANOPTIC, "0", r"[1-9]\d* segments"),
        (SEMANTIC, "0", r"[1-9]\d* classes"),
        (INSTANCE, "0", r"[1-9]\d* instances"),
    ],
)
def test_paints_a_picture(
    weights: list[str],
    pictures: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    opts: list[str],
    threshold: str,
    found: str,
) -> None:
    target = tmp_path / "drawn.png"
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(target)]
    demo.main([*argv, "--confidence-threshold", threshold, "--opts", *weights, *opts])
    before, after = enlarged(pictures[0]).astype(int), read(target).astype(int)
    assert after.shape == before.shape
    # The overlay is much stronger than what a JPEG could lose.
    assert (np.abs(after - before).max(axis=-1) > 20).mean() > 0.3
    assert re.search(
        rf"{re.escape(str(pictures[0]))}: {found} in \d+\.\d\d s", capsys.readouterr().out
    )


@pytest.mark.parametrize("opts", [PANOPTIC, SEMANTIC, INSTANCE])
def test_paints_nothing_at_threshold_1(
    weights: list[str], pictures: list[Path], tmp_path: Path, opts: list[str]
) -> None:
    target = tmp_path / "drawn.png"
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(target)]
    demo.main([*argv, "--confidence-threshold", "1", "--opts", *weights, *opts])
    np.testing.assert_array_equal(read(target), enlarged(pictures[0]))


def test_threshold_of_labels(weights: list[str], pictures: list[Path], tmp_path: Path) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path / "drawn.png")]
    labels = ["MODEL.MASK_FORMER.TEST.SEM_SEG_OUTPUT", "labels"]
    opts = [*weights, *SEMANTIC, *labels]
    message = sentence([*argv, "--confidence-threshold", "0.5", "--opts", *opts])
    assert "--confidence-threshold" in message
    assert "SEM_SEG_OUTPUT" in message


def test_config_decides_without_threshold(
    weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "drawn.png"
    argv = [
        *SHAPES,
        "--input",
        str(pictures[0]),
        "--output",
        str(target),
        "--opts",
        *weights,
        *PANOPTIC,
    ]
    key = "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD"
    demo.main([*argv, key, "1.0"])
    np.testing.assert_array_equal(read(target), enlarged(pictures[0]))
    demo.main([*argv, key, "0.0"])
    assert (read(target) != enlarged(pictures[0])).mean() > 0.3


def test_same_picture_has_the_same_colors(
    weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    targets = [tmp_path / "first.png", tmp_path / "second.png"]
    for target in targets:
        argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(target)]
        demo.main([*argv, "--confidence-threshold", "0", "--opts", *weights, *PANOPTIC])
    np.testing.assert_array_equal(read(targets[0]), read(targets[1]))


def test_writes_several_into_a_new_folder(
    weights: list[str], pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "new" / "folder"
    argv = [*SHAPES, "--input", *map(str, pictures), "--output", "~/new/folder"]
    demo.main([*argv, "--opts", *weights])
    assert sorted(path.name for path in folder.iterdir()) == [path.name for path in pictures]


EVERYTHING = ["--save", "overlay", "color", "label", "json", "rle"]


def test_saves_beside_the_named_file(
    weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path / "a.b.jpg")]
    demo.main([*argv, *EVERYTHING, "--confidence-threshold", "0", "--opts", *weights, *PANOPTIC])
    names = ["a.b.color.png", "a.b.jpg", "a.b.json", "a.b.label.png", "a.b.rle.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    ("opts", "kind"),
    [(PANOPTIC, "segments_info"), (SEMANTIC, "classes"), (INSTANCE, "instances")],
)
@pytest.mark.parametrize("threshold", ["0", "1"])
def test_saves_what_was_found(
    weights: list[str],
    pictures: list[Path],
    tmp_path: Path,
    opts: list[str],
    kind: str,
    threshold: str,
) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path), "--save", "json"]
    demo.main([*argv, "--confidence-threshold", threshold, "--opts", *weights, *opts])
    [path] = tmp_path.iterdir()  # and no overlay
    assert path.name == pictures[0].stem + ".json"
    table = json.loads(path.read_text())
    assert list(table) == ["height", "width", kind]
    assert (table["height"], table["width"]) == (128, 128)
    assert bool(table[kind]) == (threshold == "0")


def test_pictures_of_one_stem(pictures: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / f"{pictures[0].stem}.png"
    twin.touch()
    argv = ["--input", str(pictures[0]), str(twin), "--output", str(tmp_path / "out")]
    message = sentence([*argv, "--save", "json"])
    assert f"2 results would be written to {tmp_path / 'out' / pictures[0].stem}.json" in message


def test_unsure_instances_are_left_out_unasked(
    weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path), "--save", "json"]

    def scores(*threshold: str) -> list[float]:
        demo.main([*argv, *threshold, "--opts", *weights, *INSTANCE])
        table = json.loads((tmp_path / f"{pictures[0].stem}.json").read_text())
        return [instance["score"] for instance in table["instances"]]

    everything = scores("--confidence-threshold", "0")
    assert scores() == [score for score in everything if score >= demo.INSTANCE_SCORE]
    middle = sorted(everything)[len(everything) // 2]
    some = scores("--confidence-threshold", str(middle))
    assert some == [score for score in everything if score >= middle]
    assert 0 < len(some) < len(everything)


def test_pattern_with_home(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(pictures[0].parent))
    assert demo.find_pictures(["~/*.jpg"]) == [str(path) for path in pictures]


def test_file_with_the_signs_of_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "a[1].jpg"
    path.touch()
    assert demo.find_pictures([str(path)]) == [str(path)]


def test_ade20k_picture(weights: list[str], datasets_root: Path, tmp_path: Path) -> None:
    folder = datasets_root / "ADEChallengeData2016" / "images" / "validation"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    picture = min(folder.glob("*.jpg"))
    argv = [*SHAPES, "--input", str(picture), "--output", str(tmp_path)]
    demo.main([*argv, "--opts", *weights, *SEMANTIC, "INPUT.MIN_SIZE_TEST", "128"])
    before, after = read(picture), read(tmp_path / picture.name)
    assert after.shape == before.shape
    assert (np.abs(after.astype(int) - before).max(axis=-1) > 20).mean() > 0.5


def test_goes_on_with_the_cpu(
    weights: list[str],
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path)]
    demo.main([*argv, "--opts", *weights])
    assert capsys.readouterr().out.count("going on with the CPU") == 1
