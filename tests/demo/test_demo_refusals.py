"""What the demo refuses, in one sentence, and what it shows on a screen."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask_former.commands import demo
from tests.demo.running import SHAPES, sentence


def usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the parser says."""
    with pytest.raises(SystemExit, match="2"):
        demo.main(argv)
    return capsys.readouterr().err


def test_missing_picture(pictures: list[Path]) -> None:
    argv = ["--input", str(pictures[0]), "/no/such.jpg", "--output", "folder"]
    assert "no picture /no/such.jpg" in sentence(argv)


def test_folder_as_picture(tmp_path: Path) -> None:
    assert "give files" in sentence(["--input", str(tmp_path), "--output", "folder"])


def test_pattern_that_matches_nothing(tmp_path: Path) -> None:
    pattern = str(tmp_path / "*.jpg")
    assert f"nothing matches '{pattern}'" in sentence(["--input", pattern])


def break_picture(picture: Path, folder: Path) -> Path:
    """The first 2000 bytes of a picture."""
    broken = folder / "broken.jpg"
    broken.write_bytes(picture.read_bytes()[:2000])
    return broken


def test_broken_picture(weights: list[str], pictures: list[Path], tmp_path: Path) -> None:
    broken = break_picture(pictures[0], tmp_path)
    argv = [*SHAPES, "--input", str(broken), "--output", str(tmp_path / "out"), "--opts", *weights]
    assert f"image {broken} cannot be read" in sentence(argv)


def test_one_broken_picture_of_three(
    weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    """The rest is done, the broken one is listed at the end, and the exit code is 1."""
    broken = break_picture(pictures[0], tmp_path)
    names = [str(path) for path in (pictures[0], broken, pictures[1])]
    argv = [*SHAPES, "--input", *names, "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        demo.main([*argv, "--opts", *weights])
    first, second = str(ended.value.code).splitlines()  # a text is exit code 1
    assert first == "error: 1 of 3 pictures failed:"
    assert second.startswith(f"  image {broken} cannot be read")
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [path.name for path in pictures]


@pytest.mark.parametrize("given", ["", "detectron2://ImageNetPretrained/torchvision/R-50.pkl"])
def test_a_model_that_has_learnt_nothing(pictures: list[Path], tmp_path: Path, given: str) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path)]
    message = sentence([*argv, "--opts", "MODEL.WEIGHTS", given])
    assert f"MODEL.WEIGHTS is '{given}'" in message
    assert "name a trained one with --weights FILE" in message


def test_missing_weights(pictures: list[Path], tmp_path: Path) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path)]
    assert "no weights at /no/such.pth" in sentence(
        [*argv, "--opts", "MODEL.WEIGHTS", "/no/such.pth"]
    )


def test_unknown_key(pictures: list[Path], tmp_path: Path) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path)]
    assert "MODEL.WEIGHT;" in sentence([*argv, "--opts", "MODEL.WEIGHT", "x"])


def test_several_pictures_and_one_file(pictures: list[Path]) -> None:
    argv = ["--input", *map(str, pictures), "--output", "one.png"]
    assert "--output one.png is one file" in sentence(argv)


def test_output_over_the_input(pictures: list[Path]) -> None:
    argv = ["--input", str(pictures[0]), "--output", str(pictures[0].parent)]
    assert "would write over the input" in sentence(argv)


def test_two_pictures_of_one_name(pictures: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / pictures[0].name
    twin.touch()
    argv = ["--input", str(pictures[0]), str(twin), "--output", str(tmp_path / "out")]
    assert "2 results would be written to" in sentence(argv)


def test_folder_that_cannot_be_made(pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    argv = ["--input", str(pictures[0]), "--output", str(tmp_path / "file" / "folder")]
    assert "cannot make the folder" in sentence(argv)


def test_format_that_cannot_be_written(
    weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "drawn.nonsense"
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(target), "--opts", *weights]
    assert f"cannot write {target}" in sentence(argv)


def test_no_display_and_no_output(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--output" in sentence(["--input", str(pictures[0])])


@pytest.mark.skipif(
    re.search(r"GUI: +NONE", cv2.getBuildInformation()) is None, reason="OpenCV has windows"
)
def test_headless_opencv_and_no_output(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    assert "--output" in sentence(["--input", str(pictures[0])])


def test_escape_ends_the_show(
    weights: list[str], pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def press_escape(image: np.ndarray, milliseconds: int) -> int:
        shown.append(image.shape)
        return demo.ESCAPE

    # A machine for tests has no windows.
    monkeypatch.setattr(demo, "require_window", lambda pictures: [None] * len(pictures))
    monkeypatch.setattr(demo, "show", press_escape)
    demo.main([*SHAPES, "--input", *map(str, pictures), "--opts", *weights])
    assert shown == [(512, 512, 3)]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--webcam --video-input --input is required"),
        (["--webcam", "--input", "a.jpg"], "--input: not allowed with argument --webcam"),
        (["--webcam", "--output", "a.mp4"], "leave out --output"),
        (["--webcam", "--save", "json"], "--save json is for pictures"),
        (
            ["--video-input", "a.mp4", "--output", "b", "--save", "overlay", "rle"],
            "--save rle is for pictures; of a video there is only the overlay",
        ),
        (["--input", "a.jpg", "--save", "label"], "--save label writes a file; name it"),
        (["--input", "a.jpg", "--save", "labels"], "invalid choice: 'labels'"),
        (["--input", "a", "--confidence-threshold", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--input", "a", "--confidence-threshold", "nan"], "'nan' is not a number from 0 to 1"),
        (["--input", "a", "--confidence-threshold", "x"], "'x' is not a number from 0 to 1"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in usage_error(argv, capsys)
