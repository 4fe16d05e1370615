"""Videos and the camera through OpenCV."""

import os
import tempfile
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..d2.errors import InputError
from .outputs import is_folder, name_targets

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov")
"""Of the containers that can be written, if this OpenCV can."""


def open_capture(video: str | None) -> cv2.VideoCapture:
    """A video file or, without one, camera 0."""
    # It would add to our sentences, and report the probe of the codec. OpenCV 5 has moved the call.
    silence = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # type: ignore[attr-defined]
    silence(0)
    capture = cv2.VideoCapture(0 if video is None else video)
    if not capture.isOpened():
        source = "--webcam: camera 0" if video is None else f"--video-input: {video}"
        raise InputError(f"{source} cannot be opened; it is missing, or OpenCV cannot read it")
    return capture


def name_video(source: str, output: str) -> Path:
    """The video file to write, which must not exist."""
    target = name_targets([source], output)[0]["overlay"]
    if is_folder(output):
        target = target.with_suffix(video_format()[1])
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"--output {target} is no video; name a folder, or a file in {', '.join(SUFFIXES)}"
        )
    if target.exists():
        raise InputError(f"{target} exists; remove it, or name another file with --output")
    return target


def video_format() -> tuple[str, str]:
    """Codec and suffix: x264 in Matroska if this OpenCV can write it, else MPEG-4."""
    with tempfile.TemporaryDirectory() as folder:
        probe = os.path.join(folder, "probe.mkv")
        writer = cv2.VideoWriter(probe, cv2.VideoWriter.fourcc(*"x264"), 30.0, (16, 16))
        writable = writer.isOpened()
        writer.release()
    return ("x264", ".mkv") if writable else ("mp4v", ".mp4")


def write_video(frames: Iterable[np.ndarray], capture: cv2.VideoCapture, target: Path) -> None:
    """Writes frames [H, W, 3], BGR, with the size and the frame rate of the input.

    They are written to a file beside the target, which becomes the target when all of them can be
    read from it.

    Raises:
        InputError: the file cannot be written, or the input ends early; the target then holds the
            frames before.
    """
    partial = target.with_name(f"{target.stem}.partial{target.suffix}")
    try:
        written = _write(frames, capture, partial)
        kept = _count_frames(partial)
        if not written:
            raise InputError("--video-input: no frame could be read; is the file complete?")
        if kept < written:
            raise InputError(
                f"{target}: {written} frames were written, but {kept} can be read; is the disk "
                "full? Make room, or name another folder with --output"
            )
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if written < 0.99 * expected - 1:  # containers count roughly
        raise InputError(
            f"--video-input: after {written} of {expected} frames no more could be read; {target} "
            "has these. Is the file complete?"
        )


def _write(frames: Iterable[np.ndarray], capture: cv2.VideoCapture, path: Path) -> int:
    """Writes all frames; gives their number."""
    width, height = (capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    codec, suffix = video_format()
    rate = capture.get(cv2.CAP_PROP_FPS)
    fourcc = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), fourcc, rate, (int(width), int(height)))
    if not writer.isOpened():
        raise InputError(f"OpenCV cannot write {path}; let the name end in {suffix}")
    written = 0
    try:
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        for frame in tqdm(frames, total=total if total > 0 else None, unit="frame"):
            writer.write(frame)
            written += 1
    finally:
        writer.release()
    return written


def _count_frames(path: Path) -> int:
    """The number of frames that can be read from a video."""
    capture = cv2.VideoCapture(str(path))
    frames = next(n for n in count() if not capture.grab())
    capture.release()
    return frames
