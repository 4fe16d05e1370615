"""Weights, pictures and a video for the demo, and which tests of its page can run here."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mask_former.commands.prepare_shapes import prepare
from mask_former.d2.build.model import build_model
from mask_former.d2.checkpoint import MaskFormerCheckpointer
from mask_former.d2.config import load_config
from mask_former.d2.weights.record import ModelRecord
from tests.demo.running import CONFIG, find_chromium

# Without the extras, and a browser, there is nothing to test: these are not even skipped.
collect_ignore = []
if find_spec("flask") is None:
    collect_ignore += ["test_web.py", "test_web_browser.py"]
elif find_spec("playwright") is None or find_chromium() is None:
    collect_ignore += ["test_web_browser.py"]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that load random weights of a model that always finds something, with low scores."""
    few = ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "3"]
    cfg = load_config(str(CONFIG), ["MODEL.DEVICE", "cpu", *few])
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -10.0  # "no object"
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return [*few, "MODEL.WEIGHTS", str(path)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that always finds something, with low scores; it needs nothing beside it."""
    cfg = load_config(str(CONFIG), ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "3"], device="cpu")
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -10.0  # "no object"
    folder = tmp_path_factory.mktemp("checkpoint")
    MaskFormerCheckpointer(model, str(folder), record=ModelRecord.of(cfg)).save("model_final")
    return folder / "model_final.pth"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of the data set shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    prepare(folder, seed=0, counts={"train": 0, "val": 2, "dev": 0})
    return sorted((folder / "images" / "val").iterdir())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Three frames of 48 x 32 pixels, five a second."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (48, 32))
    for gray in (40, 90, 140):
        writer.write(np.full((32, 48, 3), gray, np.uint8))
    writer.release()
    return path
