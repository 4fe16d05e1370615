"""Many pictures to files: the worker of tools/predict.py beside the bare model in a loop.

``prediction/FORMAT[+FORMAT...]``: eight JPEG files of 640 x 480, the published R50 of ADE20K with
random weights, its results as labels. The reference has the pictures in memory, as the model takes
them, and writes nothing.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Work
from benchmarks.training import config
from mask_former.d2.build.model import build_model
from mask_former.d2.prediction.sources import find_items, readers
from mask_former.d2.prediction.worker import Job, Worker
from mask_former.d2.predictor import Predictor
from mask_former.d2.weights.reading import RECORD_KEY
from mask_former.d2.weights.record import ModelRecord

SIDES = ("bare model", "worker")
CASES = ("prediction/label", "prediction/label+color+overlay+coco")
PICTURES = 8


def build(case: str, side: str) -> Work:
    """One side."""
    folder = Path(tempfile.mkdtemp(prefix="mask_former_prediction"))
    draw(folder / "pictures")
    cfg = config("ade20k")
    weights = folder / "model.pth"
    record = ModelRecord.of(cfg).state_dict()
    torch.save({"model": build_model(cfg).state_dict(), RECORD_KEY: record}, weights)
    formats = case.split("/")[1].split("+")
    job = Job(str(weights), folder / "results", formats=formats)
    items = find_items(str(folder / "pictures"))
    worker, predictor = Worker(job, job.configuration()), Predictor(job.configuration())
    samples = [predictor.sample(read()) for read in readers(items)]

    def write_files() -> None:
        assert [row["files"] for row in worker.rows(items)]

    def run_model() -> None:
        with torch.no_grad():
            for sample in samples:
                predictor.model([sample])

    return write_files if side == "worker" else run_model


def draw(folder: Path) -> None:
    """Pictures of smooth noise, whose files are as large as photographs'."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        noise = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=95)
