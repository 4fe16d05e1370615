"""From nothing to a picture sheet: draws the data set shapes, trains on it, evaluates and shows.

It makes below ``--output``::

    data/shapes       the data set, by `mask_former shapes`; kept if it is up to date
    train             the run of `mask_former train`: log, metrics, weights
    shapes_sheet.png  input, ground truth and prediction of the first held-out images
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from PIL import Image, ImageDraw, ImageFont
from tabulate import tabulate

from ..d2.config import load_config
from ..d2.configuring.published import configs_folder
from ..d2.data.annotations import read_panoptic_map
from ..d2.data.preparing import telling_errors
from ..d2.data.reading import read_image
from ..d2.errors import InputError
from ..d2.visualization.drawing import enlarge
from ..d2.visualization.tracker import Tracker
from ..demo.predictor import VisualizationDemo
from . import prepare_shapes

CONFIG = configs_folder() / "shapes" / "maskformer_panoptic_tiny.yaml"
PACKAGE = __name__.partition(".commands")[0]
ROWS = 6  # pictures on the sheet
MARGIN = 8  # pixels between pictures
FONT_SIZE = 30
COLUMNS = ("input", "ground truth", "prediction")

Metrics = dict[str, float]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Draw the data set shapes, train a small panoptic MaskFormer on it, evaluate "
        "it, and write a sheet of pictures. After an interruption, run it again."
    )
    add = parser.add_argument
    folder = Path("output", "shapes_demo")
    add("--output", type=Path, default=folder, help="folder to write; default: %(default)s")
    add("--seed", type=int, default=0, help="of data set and training; default: %(default)s")
    add("--num-train", help="training images; default: that of `mask_former shapes`")
    add("--num-val", help="held-out images; default: that of `mask_former shapes`")
    add(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="changes to the configuration of the training; come last",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Walks through the steps; the path of the sheet is the last line."""
    args = parse_args(argv)
    output = args.output.resolve()
    run, sheet = output / "train", output / "shapes_sheet.png"
    with telling_errors():
        check_options(args.opts)
        sheet.unlink(missing_ok=True)  # an interrupted run must not pass for a finished one
        prepare_data(output / "data" / "shapes", args)
    os.environ["DETECTRON2_DATASETS"] = str(output / "data")  # for the training, and for us
    start = time.perf_counter()
    train(run, args)
    seconds = time.perf_counter() - start
    metrics = read_metrics(run)
    draw_sheet(run, metrics).save(sheet)
    print(describe(metrics, seconds))
    print(sheet)


def check_options(opts: Sequence[str]) -> None:
    """Refuses what would leave nothing to show after the training.

    Raises:
        InputError: a key is unknown, or another folder or task is asked for.
    """
    cfg = load_config(str(CONFIG), [*opts], "cpu")
    if "OUTPUT_DIR" in opts[::2]:
        raise InputError("OUTPUT_DIR is set by the demo; name another folder with --output")
    if not (cfg.DATASETS.TEST and cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON):
        raise InputError(
            "the demo shows panoptic segments of DATASETS.TEST; leave it and "
            "MODEL.MASK_FORMER.TEST.PANOPTIC_ON as they are, or use `mask_former train`"
        )


def prepare_data(folder: Path, args: argparse.Namespace) -> None:
    """Draws the data set, unless what lies in the folder is what would be drawn."""
    counts = {"train": args.num_train, "val": args.num_val}
    given = [f"--num-{split}={count}" for split, count in counts.items() if count is not None]
    command = [f"--output={folder}", f"--seed={args.seed}", *given]
    wanted = prepare_shapes.parse_args(command)
    num_images = {split: getattr(wanted, f"num_{split}") for split in prepare_shapes.SPLITS}
    record = prepare_shapes.record_of(wanted.seed, num_images, wanted.num_classes)
    path = folder / "shapes.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == record:
        print(f"{folder} is up to date")
    else:
        print(f"Drawing {sum(num_images.values())} images into {folder}", flush=True)
        prepare_shapes.main(command)


def train(run: Path, args: argparse.Namespace) -> None:
    """Trains and evaluates by `mask_former train`, which logs to the terminal."""
    (run / "metrics.json").unlink(missing_ok=True)  # a run would add to it
    command = [
        *(sys.executable, "-m", PACKAGE, "train"),
        *("--overwrite", "--config-file", str(CONFIG)),
    ]
    options = ["OUTPUT_DIR", str(run), "SEED", str(args.seed), *args.opts]
    sys.stdout.flush()  # in a pipe, our lines would come after its own
    code = subprocess.run([*command, *options]).returncode
    if code != 0:
        print(f"error: the training ended with exit code {code}; see above", file=sys.stderr)
        sys.exit(code)


def read_metrics(run: Path) -> Metrics:
    """The last line of what Detectron2 has written, that of the evaluation."""
    return json.loads((run / "metrics.json").read_text(encoding="utf-8").splitlines()[-1])


def describe(metrics: Metrics, seconds: float) -> str:
    """A table of the results, in per cent."""
    rows = [
        [name, *(f"{metrics[f'panoptic_seg/{key}{suffix}']:.1f}" for key in ("PQ", "SQ", "RQ"))]
        for name, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st"))
    ]
    table = tabulate(rows, headers=["", "PQ", "SQ", "RQ"], disable_numparse=True, stralign="right")
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"\n{table}\n\nmIoU {metrics['sem_seg/mIoU']:.1f}\n"
        f"training and evaluation: {minutes} min {rest} s\n"
    )


def draw_sheet(run: Path, metrics: Metrics) -> Image.Image:
    """Input, ground truth and prediction of the first test images, in their order."""
    weights = ["MODEL.WEIGHTS", str(run / "model_final.pth")]
    cfg = load_config(str(run / "config.yaml"), weights)
    demo = VisualizationDemo(cfg)
    samples = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    rows = [draw_row(demo, sample) for sample in samples[:ROWS]]
    return lay_out(title(cfg, metrics, len(samples)), rows)


def title(cfg: CfgNode, metrics: Metrics, num_images: int) -> str:
    """The line above the sheet."""
    panoptic = [f"panoptic_seg/PQ{suffix}" for suffix in ("", "_th", "_st")]
    pq, things, stuff = (f"{metrics[key]:.1f}" for key in panoptic)
    return (
        f"mIoU {metrics['sem_seg/mIoU']:.1f}, PQ {pq} (things {things}, stuff {stuff}) on the "
        f"{num_images} images of {cfg.DATASETS.TEST[0]}; these are its first"
    )


def draw_row(demo: VisualizationDemo, sample: dict[str, Any]) -> list[np.ndarray]:
    """The three pictures, enlarged, of one image; a thing has the colour of what it matches."""
    image = read_image(sample, "BGR")
    segments = sample["segments_info"]
    ids = read_panoptic_map(sample["pan_seg_file_name"], segments).ids
    predicted_ids, predicted = demo.predictor(image)["panoptic_seg"]
    tracker = Tracker(overlap=0.5)  # from which PQ counts a segment as found
    truth = demo.find({"panoptic_seg": (torch.as_tensor(ids), segments)}, tracker)
    # A score for each thing would cover the small ones.
    unscored = [{key: s[key] for key in s if key != "score"} for s in predicted]
    found = demo.find({"panoptic_seg": (predicted_ids, unscored)}, tracker)
    return [
        enlarge(image, {})[0][:, :, ::-1],
        *(demo.draw_regions(image, regions).get_image() for regions in (truth, found)),
    ]


def lay_out(line: str, rows: list[list[np.ndarray]]) -> Image.Image:
    """Rows of pictures of one size below a line of text and the columns' titles."""
    height, width = rows[0][0].shape[:2]
    right, down = width + MARGIN, height + MARGIN
    top = 2 * (FONT_SIZE + 2 * MARGIN)
    sheet = Image.new("RGB", (MARGIN + right * len(COLUMNS), top + down * len(rows)), "white")
    write = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    write.text((MARGIN, MARGIN), line, "black", font)
    for i, column in enumerate(COLUMNS):
        write.text((MARGIN + i * right + width // 2, top - MARGIN), column, "black", font, "md")
    for j, row in enumerate(rows):
        for i, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (MARGIN + i * right, top + j * down))
    return sheet
