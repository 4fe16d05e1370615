"""Tiny samples on the disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from detectron2.config import CfgNode
from PIL import Image

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.data.datasets import register_all
from mask_former.d2.data.description import read_description
from mask_former.d2.data.survey import Survey, survey
from tests.d2.data.surveys import CLASSES, SPLITS, blocks, write_pairs

Save = Callable[..., str]
Surveyed = Callable[..., Survey]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes an array (or a picture) to a file of the test's folder and returns its path."""

    def write(name: str, content: np.ndarray | Image.Image, **options: object) -> str:
        picture = content if isinstance(content, Image.Image) else Image.fromarray(content)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)
        return str(path)

    return write


@pytest.fixture
def image() -> np.ndarray:
    """[30, 40, 3]; noise."""
    return np.random.RandomState(0).randint(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    """[30, 40]; ids 0, 1, 2 and 255."""
    return np.random.RandomState(1).choice(np.array([0, 1, 2, 255], dtype=np.uint8), (30, 40))


@pytest.fixture
def colors() -> np.ndarray:
    """[30, 40, 3]; a panoptic map: id 1 left, 256 + 2 right, a void column between."""
    colors = np.zeros((30, 40, 3), dtype=np.uint8)
    colors[:, :20] = (1, 0, 0)
    colors[:, 21:] = (2, 1, 0)
    return colors


@pytest.fixture
def segments() -> list[dict]:
    """The segments of ``colors``."""
    return [
        {"id": 258, "category_id": 2, "iscrowd": 0, "isthing": True},
        {"id": 1, "category_id": 0, "iscrowd": 0, "isthing": False},
    ]


@pytest.fixture
def semantic_sample(save: Save, image: np.ndarray, labels: np.ndarray) -> dict:
    return {
        "file_name": save("image.png", image),
        "sem_seg_file_name": save("labels.png", labels),
    }


@pytest.fixture
def panoptic_sample(
    save: Save, image: np.ndarray, colors: np.ndarray, segments: list[dict]
) -> dict:
    return {
        "file_name": save("image.png", image),
        "image_id": 7,
        "pan_seg_file_name": save("panoptic.png", colors),
        "segments_info": segments,
    }


@pytest.fixture
def cfg() -> CfgNode:
    """A configuration of CamVid in which INPUT asks for everything, at tiny sizes."""
    register_all()
    cfg = get_mask_former_cfg()
    cfg.DATASETS.TRAIN = ("camvid_sem_seg_train",)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 11
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 11
    cfg.INPUT.MIN_SIZE_TRAIN = (24, 36)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.SIZE_DIVISIBILITY = 32
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = (20, 28)
    cfg.INPUT.COLOR_AUG_SSD = True
    return cfg


@pytest.fixture
def surveyed(tmp_path: Path) -> Surveyed:
    """Writes a description beside the files and surveys what it describes."""

    def run(workers: int | None = None, **changes: Any) -> Survey:
        content = {"name": "s", "classes": CLASSES, "ignore": [255], "splits": SPLITS, **changes}
        content = {key: value for key, value in content.items() if value is not None}
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        description = read_description(str(tmp_path / "dataset.yaml"))
        return survey(description, str(tmp_path / "out"), workers)

    return run


@pytest.fixture
def pairs(save) -> None:
    """Three good pairs; a column of three has 64 x 32 = 2048 pixels."""
    write_pairs(
        save,
        {
            "train/a": blocks(0, 1, 13),
            "train/b": blocks(0, 14, 255),
            "val/c": blocks(13, 1, 0),
        },
    )
