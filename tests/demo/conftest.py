"""The demo's scripts as modules, weights and pictures for them."""

import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from detectron2.utils.logger import setup_logger

from mask_former.d2.build.model import build_model
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.config_merging import merge_opts, merge_yaml
from tests.demo.running import CONFIG, ROOT

NEIGHBOURS = ("drawing", "outputs", "predictor", "regions", "results", "video")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts by name, which find their neighbour as they do when they are run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "demo"))
        modules = {name: _load(ROOT / "demo" / f"{name}.py") for name in ("demo", "shapes_demo")}
        yield {**modules, **{name: sys.modules.pop(name) for name in NEIGHBOURS}}


@pytest.fixture(scope="session")
def demo(scripts: dict[str, ModuleType]) -> ModuleType:
    """demo/demo.py."""
    return scripts["demo"]


@pytest.fixture(scope="session")
def predictor(scripts: dict[str, ModuleType]) -> ModuleType:
    """demo/predictor.py."""
    return scripts["predictor"]


@pytest.fixture(scope="session")
def drawing(scripts: dict[str, ModuleType]) -> ModuleType:
    """demo/drawing.py."""
    return scripts["drawing"]


@pytest.fixture(scope="session")
def regions(scripts: dict[str, ModuleType]) -> ModuleType:
    """demo/regions.py."""
    return scripts["regions"]


@pytest.fixture(scope="session")
def results(scripts: dict[str, ModuleType]) -> ModuleType:
    """demo/results.py."""
    return scripts["results"]


@pytest.fixture(scope="session")
def video_script(scripts: dict[str, ModuleType]) -> ModuleType:
    """demo/video.py."""
    return scripts["video"]


@pytest.fixture(scope="session")
def shapes_demo(scripts: dict[str, ModuleType]) -> ModuleType:
    """demo/shapes_demo.py."""
    return scripts["shapes_demo"]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that load random weights of a model that always finds something, with low scores."""
    few = ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "3"]
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, str(CONFIG))
    merge_opts(cfg, ["MODEL.DEVICE", "cpu", *few])
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -10.0  # "no object"
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return [*few, "MODEL.WEIGHTS", str(path)]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of the data set shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    shapes = _load(ROOT / "datasets" / "prepare_shapes.py")
    shapes.prepare(folder, seed=0, counts={"train": 0, "val": 2, "dev": 0})
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


@pytest.fixture(autouse=True)
def _fresh_loggers() -> Iterator[None]:
    """Detectron2's handlers keep the standard output of the test that made them."""
    yield
    setup_logger.cache_clear()
    for name in ("fvcore", "detectron2", "mask_former"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
