"""A tiny model that always finds something, and pictures for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from mask_former.d2.prediction.worker import Job
from mask_former.d2.weights.reading import RECORD_KEY
from mask_former.d2.weights.record import ModelRecord
from tests.d2.tiny_models import HEAD, MASK_FORMER, NARROW
from tests.small_runs import flat

TINY = {
    **NARROW,
    f"{HEAD}.NUM_CLASSES": 7,
    "DATASETS.TRAIN": "('shapes_panoptic_train',)",
    "DATASETS.TEST": "('shapes_panoptic_val',)",
    "INPUT.MIN_SIZE_TEST": 40,
    "INPUT.FORMAT": "RGB",
}
PANOPTIC = {f"{MASK_FORMER}.TEST.PANOPTIC_ON": True}
INSTANCE = {f"{MASK_FORMER}.TEST.SEMANTIC_ON": False, f"{MASK_FORMER}.TEST.INSTANCE_ON": True}


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> str:
    torch.manual_seed(1)
    cfg = load_config(opts=flat(TINY))
    model = build_model(cfg)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -10.0  # "no object"
    path = tmp_path_factory.mktemp("tiny") / "model.pth"
    record = ModelRecord.of(cfg).state_dict()
    torch.save({"model": model.state_dict(), RECORD_KEY: record}, path)
    return str(path)


@pytest.fixture
def make_job(tiny_weights, tmp_path):
    def make(options=PANOPTIC, **fields) -> Job:
        output = fields.pop("output", tmp_path / "out")
        return Job(tiny_weights, output, opts=flat(options), **fields)

    return make


@pytest.fixture
def photos(tmp_path) -> Path:
    """Seven pictures of three sizes in two folders, one of which is broken."""
    return draw(tmp_path / "photos", 7, broken=5)


def draw(folder: Path, number: int, broken: int | None = None) -> Path:
    random = np.random.RandomState(0)
    for i in range(number):
        path = folder / ("sub" if i % 3 else ".") / f"{i:03d}.{'png' if i % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = [(32, 40), (40, 32), (36, 36)][i % 3]
        colors = random.randint(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(colors).resize((width, height)).save(path)
        if i == broken:
            path.write_bytes(b"no picture")
    return folder
