"""Videos and the camera through OpenCV."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from outputs import is_folder, name_targets
from tqdm import tqdm

from mask_former.d2.errors import InputError


def open_capture(video: str | None) -> cv2.VideoCapture:
    """A video file or, without one, camera 0."""
    # It would add to our sentences, and report the probe of the codec. OpenCV 5 has moved the call.
    silence = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
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
    """Writes frames [H, W, 3], BGR, with the size and the frame rate of the input."""
    size = tuple(int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    codec = cv2.VideoWriter.fourcc(*video_format()[0])
    writer = cv2.VideoWriter(str(target), codec, capture.get(cv2.CAP_PROP_FPS), size)
    if not writer.isOpened():
        raise InputError(f"OpenCV cannot write {target}; let the name end in {video_format()[1]}")
    for frame in tqdm(frames, total=int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), unit="frame"):
        writer.write(frame)
    writer.release()
