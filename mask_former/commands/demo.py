"""Shows what a model sees: ``mask_former demo --input 'photos/*.jpg' --output FOLDER``."""

import argparse
import glob
import logging
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from PIL import Image

from ..d2.command_line.arguments import add_opts_argument, share
from ..d2.command_line.importing import add_import_argument, import_code
from ..d2.configuring.published import configs_folder
from ..d2.data.reading import read_image
from ..d2.errors import InputError
from ..d2.visualization.regions import Found
from ..d2.visualization.saving import SAVERS
from ..d2.weights.record import load_trained_config, read_record
from ..demo.outputs import Targets, name_targets
from ..demo.predictor import VisualizationDemo
from ..demo.video import name_video, open_capture, write_video

CONFIG = configs_folder() / "ade20k-150" / "maskformer_R50_bs16_160k.yaml"
WINDOW = "MaskFormer demo"
ESCAPE = 27
INSTANCE_SCORE = 0.5
FILES = """\
files: of photo.jpg, --output FOLDER gets, and --output FOLDER/photo.jpg gives the name of
  overlay  photo.jpg        the picture, if need be enlarged to 400 pixels, with what was found
                            painted over it
  color    photo.color.png  palette PNG: the overlay's colours, void black (RGB beyond 256 colours)
  label    photo.label.png  classes: their ids, void 255 (16 bits and 65535 with over 255 classes);
                            segments and instances: RGB, id = R + 256 G + 65536 B, void 0
  json     photo.json       id, category_id (0..K-1), category, score, area, bbox [x, y, w, h] of
                            each of the segments_info, classes or instances
  rle      photo.rle.json   the same with segmentation: COCO's run lengths
A model that gives panoptic segments shows and saves these. Of one that gives classes and instances,
color and label show the classes. Where instances overlap, color and label show the best.
"""
_logger = logging.getLogger(__name__)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Segment pictures, a video or what a camera sees.",
        epilog=FILES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    home = os.path.expanduser  # where a shell has left "~" alone, as in --output=~/results
    add(
        "--config-file",
        metavar="FILE",
        type=home,
        help=f"YAML; default: that in the weights, if a training wrote them, else {CONFIG}",
    )
    add(
        "--weights",
        metavar="FILE",
        type=home,
        help="a checkpoint; that of a training needs nothing beside it, not even --config-file",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--webcam", action="store_true", help="show camera 0, live")
    source.add_argument("--video-input", metavar="FILE", type=home, help="a video")
    source.add_argument(
        "--input",
        nargs="+",
        action="extend",
        metavar="PICTURE",
        help="pictures, or one quoted pattern such as '~/photos/*.jpg'",
    )
    add_output_arguments(parser)
    add_import_argument(parser)
    add_opts_argument(parser, ", MODEL.WEIGHTS FILE among them")
    args = parser.parse_args(argv)
    args.save = args.save or ["overlay"]
    check_args(parser, args)
    return args


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """What is drawn and where it goes."""
    add = parser.add_argument
    add(
        "--output",
        metavar="PATH",
        type=os.path.expanduser,
        help="the file to write, or a folder for files of the inputs' names (made if need be; a "
        "name without a suffix is a folder); without it a window shows the results, and Esc ends",
    )
    add(
        "--save",
        nargs="+",
        action="extend",
        choices=("overlay", *SAVERS),
        help="what to write to --output, see below; default: overlay, the only one for videos",
    )
    add("--fast", action="store_true", help="draw with OpenCV instead of matplotlib: plainer")
    add(
        "--confidence-threshold",
        type=share,
        metavar="0..1",
        help="panoptic: show segments whose class has a higher probability, instead of the "
        "config's MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD; semantic: leave pixels unpainted "
        "whose best score, the sum of class times mask probabilities, is lower; instances: leave "
        f"out those of a lower score, default: {INSTANCE_SCORE}",
    )


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses arguments that contradict each other."""
    if args.webcam and args.output:
        parser.error("--webcam is shown live and written to no file; leave out --output")
    plain = [kind for kind in args.save if kind != "overlay"]
    if plain and not args.input:
        parser.error(f"--save {plain[0]} is for pictures; of a video there is only the overlay")
    if plain and not args.output:
        parser.error(f"--save {plain[0]} writes a file; name it or its folder with --output")


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, runs, and ends with one sentence when the input is bad."""
    args = parse_args(argv)
    for name in ("detectron2", "mask_former"):
        setup_logger(name=name)
    Image.MAX_IMAGE_PIXELS = None  # large pictures are what tiles are for
    try:
        segment_pictures(args) if args.input else segment_video(args)
    except InputError as error:
        sys.exit(f"error: {InputError.sentence(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


def segment_pictures(args: argparse.Namespace) -> None:
    """Writes or shows what is found in each picture.

    Raises:
        InputError: pictures could not be read, or their results written; the others are done.
    """
    pictures = find_pictures(args.input)
    targets: Sequence[Targets | None]
    if args.output:
        targets = name_targets(pictures, args.output, args.save)
    else:
        targets = require_window(pictures)
    demo = build_demo(args)
    failures = []
    for picture, files in zip(pictures, targets, strict=True):
        try:
            if segment_picture(demo, picture, files) == ESCAPE:
                break
        except InputError as error:
            failures.append(InputError.sentence(error))
            _logger.error("%s: left out, the end tells why", picture)
    if failures:
        count = f"{len(failures)} of {len(pictures)} pictures failed:\n  "
        raise InputError((count if len(pictures) > 1 else "") + "\n  ".join(failures))


def segment_picture(demo: VisualizationDemo, picture: str, files: Targets | None) -> int | None:
    """Writes what is found, or shows it and gives the key that was pressed."""
    image = read_image({"file_name": picture}, "BGR")
    start = time.perf_counter()
    found = demo.find(demo.predict(image))
    _logger.info("%s: %s in %.2f s", picture, describe(found), time.perf_counter() - start)
    if files is None:
        return show(draw(demo, image, found)[:, :, ::-1], milliseconds=0)
    save(demo, image, found, files)
    return None


def build_demo(args: argparse.Namespace) -> VisualizationDemo:
    """The model of the command line, with its weights."""
    import_code(args.imports)
    cfg = configuration(args)
    if not cfg.MODEL.WEIGHTS or "://ImageNetPretrained/" in cfg.MODEL.WEIGHTS:
        raise InputError(
            f"MODEL.WEIGHTS is {cfg.MODEL.WEIGHTS!r}, from which a training starts: the model has "
            "learnt no classes yet; name a trained one with --weights FILE"
        )
    threshold = args.confidence_threshold
    if threshold is not None:
        test = cfg.MODEL.MASK_FORMER.TEST
        if test.SEM_SEG_OUTPUT == "labels" and test.SEMANTIC_ON and not test.PANOPTIC_ON:
            raise InputError(
                "--confidence-threshold looks at semantic scores, which the configuration's "
                "MODEL.MASK_FORMER.TEST.SEM_SEG_OUTPUT 'labels' leaves out; leave one of them out"
            )
        test.OBJECT_MASK_THRESHOLD = threshold
    cfg.freeze()
    return VisualizationDemo(
        cfg,
        semantic_threshold=0.0 if threshold is None else threshold,
        instance_threshold=INSTANCE_SCORE if threshold is None else threshold,
        fast=args.fast,
    )


def configuration(args: argparse.Namespace) -> CfgNode:
    """That of ``--config-file``, else that in the weights, else the published model's."""
    if args.weights is not None:
        return load_trained_config(args.config_file, ["MODEL.WEIGHTS", args.weights, *args.opts])
    file = args.config_file
    weights = dict(zip(args.opts[::2], args.opts[1::2], strict=False)).get("MODEL.WEIGHTS")
    if file is None and (not weights or read_record(weights) is None):
        file = str(CONFIG)
    return load_trained_config(file, args.opts)


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


def require_window(pictures: Sequence[str] = ()) -> Sequence[Targets | None]:
    """No files to write, when OpenCV can open a window instead.

    Raises:
        InputError: it is a headless build, or there is no display.
    """
    # Without a display, OpenCV's Qt build would end the process.
    named = {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    display = sys.platform != "linux" or bool(named)
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


def describe(found: Found) -> str:
    """What was found, for the log."""
    names = {"segments_info": "segments", "classes": "classes", "instances": "instances"}
    return ", ".join(f"{len(regions)} {names[kind]}" for kind, regions in found.items())


def draw(demo: VisualizationDemo, image: np.ndarray, found: Found) -> np.ndarray:
    """The overlay [H, W, 3], RGB, of an image [H, W, 3], BGR."""
    return demo.draw_regions(image, found).get_image()


def save(demo: VisualizationDemo, image: np.ndarray, found: Found, files: Targets) -> None:
    """Writes each kind of result; overlays in the format that the suffix names."""
    num_classes = len(demo.metadata.stuff_classes)
    for kind, path in files.items():
        if kind == "overlay":
            overlay = Image.fromarray(draw(demo, image, found))
            write = partial(overlay.save, path, quality=95)
        else:
            height, width = image.shape[:2]
            write = partial(SAVERS[kind], path, found, (height, width), num_classes)
        try:
            write()
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot write {path}: {error}; name a folder that can be written and a suffix "
                "such as .png or .jpg"
            ) from error


def segment_video(args: argparse.Namespace) -> None:
    """Writes or shows a video, or the camera, with its segments."""
    capture = open_capture(args.video_input)
    target = name_video(args.video_input, args.output) if args.output else require_window()
    frames = build_demo(args).run_on_video(capture)
    if isinstance(target, Path):
        write_video(frames, capture, target)
    else:
        for frame in frames:
            if show(frame, milliseconds=1) == ESCAPE:
                break
    capture.release()
