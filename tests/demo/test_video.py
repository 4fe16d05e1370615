"""The demo on videos."""

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask_former.commands import demo
from mask_former.d2.errors import InputError
from mask_former.demo.video import open_capture, video_format, write_video
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


@pytest.mark.parametrize("name", ["drawn.png", "drawn.nonsense"])
def test_output_that_is_no_video(video: Path, tmp_path: Path, name: str) -> None:
    argv = [*SHAPES, "--video-input", str(video), "--output", str(tmp_path / name)]
    assert f"{name} is no video; name a folder, or a file in .mp4, .mkv" in sentence(argv)


def noise(number: int) -> Iterator[np.ndarray]:
    """Frames of the clip's size that hardly compress."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        yield rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)


def test_a_full_disk(video: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it: OpenCV hides either."""
    target = tmp_path / "drawn.mp4"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, hard))
    try:
        with pytest.raises(InputError, match=r"90 frames were written, but \d+ can be read"):
            write_video(noise(90), open_capture(str(video)), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [video]


def test_an_interruption_leaves_nothing(video: Path, tmp_path: Path) -> None:
    def stop() -> Iterator[np.ndarray]:
        yield from noise(2)
        raise KeyboardInterrupt

    target = tmp_path / "drawn.mp4"
    with pytest.raises(KeyboardInterrupt):
        write_video(stop(), open_capture(str(video)), target)
    assert list(tmp_path.iterdir()) == [video]
    write_video(noise(3), open_capture(str(video)), target)  # and again
    assert sorted(tmp_path.iterdir()) == [video, target]


def test_half_a_video(weights: list[str], tmp_path: Path) -> None:
    """What can be read is written; that it is not all is said."""
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (48, 32))
    for frame in noise(8):
        writer.write(frame)
    writer.release()
    half, target = tmp_path / "half.avi", tmp_path / "drawn.mp4"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    argv = [*SHAPES, "--video-input", str(half), "--output", str(target)]
    message = sentence([*argv, "--opts", *weights, "INPUT.MIN_SIZE_TEST", "32"])
    assert re.search(r"after [1-7] of 8 frames no more could be read", message)
    assert target.exists()


def test_video_without_window(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--output" in sentence(["--video-input", str(video)])
