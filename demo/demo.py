#!/usr/bin/env python
"""Shows what a model sees: ``demo/demo.py --input 'photos/*.jpg' --output FOLDER``."""

import argparse
import glob
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import VisImage
from PIL import Image
from predictor import Predictions, VisualizationDemo
from tqdm import tqdm

from mask_former.d2.config import get_mask_former_cfg, merge_opts, merge_yaml
from mask_former.d2.data.reading import read_image
from mask_former.d2.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "ade20k-150" / "maskformer_R50_bs16_160k.yaml"
WINDOW = "MaskFormer demo"
ESCAPE = 27
_logger = logging.getLogger("mask_former.demo")


def probability(text: str) -> float:
    """A type of argparse: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Segment pictures, a video or what a camera sees.")
    add = parser.add_argument
    add("--config-file", metavar="FILE", default=str(CONFIG), help="YAML; default: %(default)s")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--webcam", action="store_true", help="show camera 0, live")
    source.add_argument("--video-input", metavar="FILE", help="a video")
    source.add_argument(
        "--input",
        nargs="+",
        metavar="PICTURE",
        help="pictures, or one quoted pattern such as '~/photos/*.jpg'",
    )
    add(
        "--output",
        metavar="PATH",
        help="the file to write, or a folder for files of the inputs' names (made if need be; a "
        "name without a suffix is a folder); without it a window shows the results, and Esc ends",
    )
    add(
        "--confidence-threshold",
        type=probability,
        metavar="0..1",
        help="panoptic: show segments whose class has a higher probability, instead of the "
        "config's MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD; semantic: leave pixels unpainted "
        "whose best score, the sum of class times mask probabilities, is lower",
    )
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="changes to the configuration; comes last",
    )
    args = parser.parse_args(argv)
    if args.webcam and args.output:
        parser.error("--webcam is shown live and written to no file; leave out --output")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, runs, and ends with one sentence when the input is bad."""
    args = parse_args(argv)
    for name in ("fvcore", "detectron2", "mask_former"):
        setup_logger(name=name)
    try:
        segment_pictures(args) if args.input else segment_video(args)
    except InputError as error:
        sys.exit(f"error: {InputError.sentence(error)}")


def segment_pictures(args: argparse.Namespace) -> None:
    """Writes or shows each picture with its segments."""
    pictures = find_pictures(args.input)
    targets = name_targets(pictures, args.output) if args.output else require_window(pictures)
    demo = build_demo(args)
    for picture, target in zip(pictures, targets, strict=True):
        image = read_image({"file_name": picture}, "BGR")
        start = time.perf_counter()
        predictions, drawing = demo.run_on_image(image)
        seconds = time.perf_counter() - start
        _logger.info("%s: %s in %.2f s", picture, describe(predictions), seconds)
        if target is not None:
            save(drawing, target)
        elif show(drawing.get_image()[:, :, ::-1], milliseconds=0) == ESCAPE:
            break


def build_demo(args: argparse.Namespace) -> VisualizationDemo:
    """The model of the command line, with its weights."""
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, args.config_file)
    merge_opts(cfg, args.opts)
    threshold = args.confidence_threshold
    if threshold is not None:
        cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = threshold
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        _logger.info("CUDA is not available; going on with the CPU")
    cfg.freeze()
    return VisualizationDemo(cfg, semantic_threshold=threshold or 0.0)


def find_pictures(names: Sequence[str]) -> list[str]:
    """The files that ``--input`` names; a single name may be a pattern, with ``~``."""
    pictures = list(names)
    if len(names) == 1 and not os.path.isfile(names[0]):
        pictures = sorted(glob.glob(os.path.expanduser(names[0])))
        if not pictures:
            raise InputError(f"--input: nothing matches {names[0]!r}; mend the name or the pattern")
    for picture in pictures:
        if not os.path.isfile(picture):
            raise InputError(
                f"--input: there is no picture {picture}; give files, or one quoted pattern such "
                "as 'photos/*.jpg'"
            )
    return pictures


def name_targets(sources: Sequence[str], output: str) -> list[Path]:
    """A file to write for each source, in the folder ``output`` or, of a single one, itself."""
    if is_folder(output):
        targets = [Path(output, os.path.basename(source)) for source in sources]
    elif len(sources) == 1:
        targets = [Path(output)]
    else:
        raise InputError(
            f"--output {output} is one file, but --input names {len(sources)} pictures; give a "
            "folder"
        )
    check_targets(sources, targets)
    for target in targets:
        make_folder(target.parent)
    return targets


def is_folder(output: str) -> bool:
    """Whether ``--output`` is a folder, or is to become one."""
    return os.path.isdir(output) or not Path(output).suffix or output.endswith(os.sep)


def check_targets(sources: Sequence[str], targets: Sequence[Path]) -> None:
    """Refuses to write over an input, or two results into one file."""
    name, count = Counter(targets).most_common(1)[0]
    if count > 1:
        raise InputError(f"{count} inputs would be written to {name}; run them one after another")
    inputs = {os.path.realpath(source) for source in sources}
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise InputError(f"--output would write over the input {target}; name another folder")


def make_folder(folder: Path) -> None:
    """Makes a folder with its parents, if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: cannot make the folder {folder}: {error.strerror}") from error


def require_window(pictures: Sequence[str] = ()) -> list[None]:
    """No files to write, when OpenCV can open a window instead.

    Raises:
        InputError: it is a headless build, or there is no display.
    """
    # Without a display, OpenCV's Qt build would end the process.
    display = sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    try:
        if display:
            cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error:
        display = False
    if not display:
        raise InputError(
            "no window can be opened (OpenCV is a headless build, or there is no display); name a "
            "file or a folder with --output"
        )
    return [None] * len(pictures)


def show(image: np.ndarray, milliseconds: int) -> int:
    """Shows a BGR image [H, W, 3] and gives the key that was pressed; 0 ms: waits for one."""
    cv2.imshow(WINDOW, image)
    return cv2.waitKey(milliseconds)


def describe(predictions: Predictions) -> str:
    """What was found, for the log."""
    if "panoptic_seg" in predictions:
        return f"{len(predictions['panoptic_seg'][1])} segments"
    return (
        f"{len(predictions['instances'])} instances" if "instances" in predictions else "finished"
    )


def save(drawing: VisImage, target: Path) -> None:
    """Writes a drawing in the format that the suffix names."""
    try:
        Image.fromarray(drawing.get_image()).save(target, quality=95)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot write {target}: {error}; name a folder that can be written and a suffix such "
            "as .png or .jpg"
        ) from error


def segment_video(args: argparse.Namespace) -> None:
    """Writes or shows a video, or the camera, with its segments."""
    cv2.setLogLevel(0)  # it would add to our sentences, and report the probe of the codec
    capture = open_capture(args)
    target = name_video(args.video_input, args.output) if args.output else require_window()
    frames = build_demo(args).run_on_video(capture)
    if target:
        write_video(frames, capture, target)
    else:
        for frame in frames:
            if show(frame, milliseconds=1) == ESCAPE:
                break
    capture.release()


def open_capture(args: argparse.Namespace) -> cv2.VideoCapture:
    """The camera or the video of the command line."""
    capture = cv2.VideoCapture(0 if args.webcam else args.video_input)
    if not capture.isOpened():
        source = "--webcam: camera 0" if args.webcam else f"--video-input: {args.video_input}"
        raise InputError(f"{source} cannot be opened; it is missing, or OpenCV cannot read it")
    return capture


def name_video(source: str, output: str) -> Path:
    """The video file to write, which must not exist."""
    [target] = name_targets([source], output)
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


if __name__ == "__main__":
    main()
