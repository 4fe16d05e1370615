"""Writes a trained model as one file that ONNX Runtime, PyTorch or OpenVINO runs by itself.

    mask_former export model_final.pth model.onnx --format onnx

The file takes a picture's bytes and the size of the result, and gives labels or segments; it is
compared with the model before it gets its name. mask_former/runtime.py runs it without PyTorch.
docs/EXPORT.md says more.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.transforms import Resize
from PIL import Image

from ..d2.command_line.arguments import add_opts_argument, positive
from ..d2.command_line.importing import add_import_argument, import_code
from ..d2.data.checks import check_dataset
from ..d2.data.datasets import register_descriptions
from ..d2.data.pairing import PICTURE_EXTENSIONS
from ..d2.data.preparing import telling_errors
from ..d2.errors import InputError
from ..d2.export.checking import POINTS, compare, evaluate
from ..d2.export.formats import SUFFIXES, Request, check_packages, load_exported, write
from ..d2.export.graph import TASK_KEYS, ExportedModel, default_task
from ..d2.export.quantization import quantize
from ..d2.predictor import Predictor, load_predictor
from ..d2.visualization.regions import class_metadata
from ..runtime import Information, read_picture

DRAWN = ((97, 131), (160, 120))
"""Heights and widths of the pictures that are drawn where none are given."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="the checkpoint")
    add("output", metavar="OUTPUT", type=Path, help="the file to write")
    add("--format", choices=[*SUFFIXES], required=True, help="the runtime that the file is for")
    add("--task", choices=[*TASK_KEYS], help="default: the richest that the configuration has on")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--size",
        type=positive,
        nargs=2,
        metavar=("H", "W"),
        help="pictures are resized to this; default: any size",
    )
    sizes.add_argument(
        "--dynamic",
        action="store_true",
        help="pictures of any size, resized as INPUT.{MIN,MAX}_SIZE_TEST say; the default",
    )
    add("--precision", choices=[*POINTS], default="float32", help="default: %(default)s")
    add("--raw", action="store_true", help="give class and mask logits instead of a result")
    add("--config-file", metavar="FILE", help="YAML, for weights that do not carry their own")
    add(
        "--pictures",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="to compare on; default: drawn",
    )
    add("--calibrate", type=Path, metavar="FOLDER", help="of pictures, for --precision int8")
    add("--evaluate", metavar="DATASET", help="compare mIoU, PQ or AP on this data set too")
    add_import_argument(parser)
    add_opts_argument(parser)
    args = parser.parse_args(argv)
    if args.raw and (args.task or args.evaluate):
        parser.error("--raw gives logits and no result; leave --task and --evaluate out")
    if (args.precision == "int8") != (args.calibrate is not None):
        parser.error("--precision int8 needs --calibrate FOLDER, and nothing else does")
    if args.precision == "int8" and args.format != "onnx":
        parser.error("--precision int8 is for --format onnx")
    if args.output.suffix != SUFFIXES[args.format]:
        parser.error(f"OUTPUT of --format {args.format} ends in {SUFFIXES[args.format]}")
    if args.output.is_dir():
        parser.error(f"OUTPUT {args.output} is a folder; name the file to write")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Exports, compares, and gives the file its name."""
    args = parse_args(argv)
    with telling_errors():
        check_packages(args.format)
        import_code(args.imports)
        export(args)


def export(args: argparse.Namespace) -> None:
    """Writes beside the output, compares, and renames.

    Raises:
        InputError: the model cannot be exported so, or the file differs from it.
    """
    pictures = [np.asarray(read_picture(path)) for path in args.pictures] or list(map(draw, DRAWN))
    calibration = pictures_of(args.calibrate) if args.calibrate else []
    predictor, task = load_model(args)
    if args.evaluate:
        register_descriptions(predictor.cfg)
        check_dataset(args.evaluate, predictor.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    info = information(predictor, task, args.size)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=".export") as folder:
        path = Path(folder) / args.output.name
        half = args.precision == "float16"
        graph = ExportedModel(
            deepcopy(predictor.model), task, half=half and args.format != "openvino"
        ).eval()
        size = (args.size[0], args.size[1]) if args.size else None
        write(graph, info, Request(args.format, size, half), path)
        if args.precision == "int8":
            source = path.rename(path.with_name("float32.onnx"))
            quantize(source, path, load_exported(source, "onnx"), calibration)
            source.unlink()
        model = load_exported(path, args.format)
        report = compare(predictor, model, pictures, task)
        print(f"{args.format} {args.precision} {task}: {report}")
        report.check(task, args.precision)
        if args.evaluate:
            check_points(evaluate(predictor.cfg, predictor, model, args.evaluate), args.precision)
        written = sorted(Path(folder).iterdir())
        for file in written:
            os.replace(file, args.output.parent / file.name)
    sizes = [(args.output.parent / file.name).stat().st_size for file in written]
    print(f"wrote {args.output}, {sum(sizes) / 2**20:.1f} MiB")


def load_model(args: argparse.Namespace) -> tuple[Predictor, str]:
    """The model, resizing pictures as the file will, and the task."""
    opts = ["MODEL.DEVICE", "cpu", *args.opts]
    if args.task:
        opts += [f"MODEL.MASK_FORMER.TEST.{TASK_KEYS[args.task]}", "True"]
    opts += ["MODEL.MASK_FORMER.TEST.SEM_SEG_OUTPUT", "scores"]  # which are compared
    predictor = load_predictor(args.config_file, args.weights, opts)
    options: Any = getattr(predictor.model, "inference", None)
    if options and options.tiles[0]:
        print(
            f"MODEL.MASK_FORMER.TEST.TILES is {list(options.tiles)}, which a file does not do: it "
            "takes pictures whole, and is compared with the model without tiles"
        )
        predictor.model.inference = options._replace(tiles=(0, 0))
    if args.size:
        predictor.aug = Resize(args.size)
    return predictor, "raw" if args.raw else args.task or default_task(predictor.cfg)


def information(predictor: Predictor, task: str, size: Sequence[int] | None) -> Information:
    """What the file will say of itself."""
    cfg: CfgNode = predictor.cfg
    metadata: Any = class_metadata(cfg)
    kind = "thing" if task == "instance" else "stuff"
    names, colors = getattr(metadata, f"{kind}_classes"), getattr(metadata, f"{kind}_colors")
    options: Any = getattr(predictor.model, "inference", None)
    return Information(
        task=task,
        names=[str(name) for name in names],
        colors=[[int(value) for value in color] for color in colors],
        thing_ids=sorted(options.thing_ids) if options else [],
        channels=cfg.INPUT.FORMAT,
        size=list(size) if size else None,
        shortest=cfg.INPUT.MIN_SIZE_TEST,
        longest=cfg.INPUT.MAX_SIZE_TEST,
    )


def check_points(found: dict[str, list[float]], precision: str) -> None:
    """Prints mIoU, PQ or AP of both sides, and refuses a loss above the bound."""
    for name, (eager, exported) in found.items():
        print(f"{name}: {eager:.2f} in PyTorch, {exported:.2f} exported")
        if not exported >= eager - POINTS[precision]:
            raise InputError(
                f"{name} falls from {eager:.2f} to {exported:.2f}, by more than "
                f"{POINTS[precision]} points; nothing is written. Try another --precision, or more "
                "pictures with --calibrate"
            )


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder, in order.

    Raises:
        InputError: there are none.
    """
    files = [path for path in folder.glob("*") if path.suffix.lower() in PICTURE_EXTENSIONS]
    if not files:
        raise InputError(
            f"{folder} has no pictures ({', '.join(PICTURE_EXTENSIONS)}); give a folder with some "
            "dozens of the kind that the model will see"
        )
    return sorted(files)


def draw(size: tuple[int, int]) -> np.ndarray:
    """A picture [H, W, 3] of coarse patches of colour, the same each time."""
    patches = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(patches).resize(size[::-1], Image.Resampling.BICUBIC))
