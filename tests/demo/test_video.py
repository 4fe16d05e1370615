"""The demo on videos."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from video import video_format

import demo
from tests.demo.running import INSTANCE, PANOPTIC, SEMANTIC, SHAPES, sentence


@pytest.mark.parametrize("fast", [["--fast"], []])
@pytest.mark.parametrize("opts", [PANOPTIC, SEMANTIC, INSTANCE])
def test_paints_a_video(
    weights: list[str],
    video: Path,
    tmp_path: Path,
    opts: list[str],
    fast: list[str],
) -> None:
    folder = tmp_path / "out"
    argv = [*SHAPES, "--video-input", str(video), "--output", str(folder), *fast]
    small = ["INPUT.MIN_SIZE_TEST", "32"]
    demo.main([*argv, "--confidence-threshold", "0", "--opts", *weights, *opts, *small])
    [target] = folder.iterdir()
    assert target.name == "clip" + video_format()[1]
    capture = cv2.VideoCapture(str(target))
    assert capture.get(cv2.CAP_PROP_FPS) == 5
    frames = [capture.read()[1] for _ in range(4)]
    assert frames[3] is None
    for frame, gray in zip(frames[:3], (40, 90, 140), strict=True):
        assert frame.shape == (32, 48, 3)
        assert np.abs(frame.astype(int) - gray).max() > 20


def test_existing_video(video: Path, tmp_path: Path) -> None:
    target = tmp_path / "drawn.mp4"
    target.touch()
    argv = ["--video-input", str(video), "--output", str(target)]
    assert f"{target} exists" in sentence(argv)


def test_missing_video() -> None:
    argv = ["--video-input", "/no/such.mp4", "--output", "a.mp4"]
    assert "/no/such.mp4 cannot be opened" in sentence(argv)


def test_video_format_that_cannot_be_written(video: Path, tmp_path: Path) -> None:
    target = tmp_path / "drawn.nonsense"
    argv = [*SHAPES, "--video-input", str(video), "--output", str(target)]
    assert f"OpenCV cannot write {target}" in sentence(argv)


def test_video_without_window(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--output" in sentence(["--video-input", str(video)])
