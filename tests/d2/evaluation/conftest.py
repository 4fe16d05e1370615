"""A registered data set of one tiny sample, and the steps of its evaluation."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.data.reading import rgb_to_id
from mask_former.d2.evaluation.choice import build_evaluator


@pytest.fixture
def write_image() -> Callable[..., None]:
    """Writes bytes to a file of the format that its name says."""

    def write(path: str, values) -> None:
        Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)

    return write


@pytest.fixture
def write_panoptic_json() -> Callable[..., None]:
    """Writes the panoptic JSON of the sample."""

    def write(path: Path, segments: list[dict]) -> None:
        annotation = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
        image = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 2}
        thing, stuff = (
            {"id": 0, "name": "cat", "isthing": 1},
            {"id": 1, "name": "sky", "isthing": 0},
        )
        content = {"images": [image], "annotations": [annotation], "categories": [thing, stuff]}
        path.write_text(json.dumps(content), encoding="utf-8")

    return write


@pytest.fixture
def sample(tmp_path: Path, write_image, write_panoptic_json) -> dict:
    """A 2x2 image with a semantic and a panoptic label."""
    files = {"file_name": "a.jpg", "sem_seg_file_name": "a.png", "pan_seg_file_name": "p/a.png"}
    sample = {key: str(tmp_path / name) for key, name in files.items()}
    (tmp_path / "p").mkdir()
    write_image(sample["file_name"], np.zeros((2, 2, 3)))
    write_image(sample["sem_seg_file_name"], [[0, 1], [1, 9]])
    write_image(sample["pan_seg_file_name"], [[[1, 0, 0]] * 2, [[2, 0, 0]] * 2])
    segments = [
        {"id": i, "category_id": i - 1, "iscrowd": 0, "area": 2, "bbox": [0, 0, 2, 1]}
        for i in (1, 2)
    ]
    write_panoptic_json(tmp_path / "p.json", segments)
    segments[0]["isthing"], segments[1]["isthing"] = True, False
    return {**sample, "image_id": 1, "height": 2, "width": 2, "segments_info": segments}


@pytest.fixture
def data_set(sample: dict, tmp_path: Path) -> Iterator[str]:
    """The name of a data set of the sample, with two classes and 9 as ignore label."""
    name = "evaluation_test_set"
    DatasetCatalog.register(name, lambda: [sample])
    image = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 2}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    MetadataCatalog.get(name).set(
        thing_classes=["cat", "sky"],
        stuff_classes=["cat", "sky"],
        thing_dataset_id_to_contiguous_id={0: 0},
        stuff_dataset_id_to_contiguous_id={0: 0, 1: 1},
        ignore_label=9,
        label_divisor=1000,
        panoptic_json=str(tmp_path / "p.json"),
        panoptic_root=str(tmp_path / "p"),
        json_file=str(tmp_path / "coco.json"),
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def build(data_set: str, tmp_path: Path) -> Callable[..., DatasetEvaluator]:
    """The data set's evaluators, for any model, or for one of ours with the results ``given``."""

    def built(evaluator_type: str | None, architecture: str = "", given: str = ""):
        if evaluator_type is not None:
            MetadataCatalog.get(data_set).evaluator_type = evaluator_type
        cfg = get_mask_former_cfg()
        if architecture:
            cfg.MODEL.META_ARCHITECTURE = architecture
            keys = ("SEMANTIC_ON", "PANOPTIC_ON", "INSTANCE_ON")
            cfg.MODEL.MASK_FORMER.TEST.update({key: key[0] in given for key in keys})
        cfg.OUTPUT_DIR = str(tmp_path / "out")
        return build_evaluator(cfg, data_set)

    return built


@pytest.fixture
def evaluate() -> Callable[..., dict]:
    """The results of an evaluator for one sample and its output."""

    def evaluated(evaluator: DatasetEvaluator, sample: dict, output: dict) -> dict:
        evaluator.reset()
        evaluator.process([sample], [output])
        return evaluator.evaluate()

    return evaluated


@pytest.fixture
def panoptic_output() -> Callable[[dict], dict]:
    """The ground truth of a sample as a prediction, with other segment ids."""

    def output(sample: dict) -> dict:
        ids = rgb_to_id(detection_utils.read_image(sample["pan_seg_file_name"], "RGB"))
        segments = [
            {"id": n, "category_id": s["category_id"], "isthing": s["isthing"]}
            for n, s in enumerate(sample["segments_info"], start=1)
        ]
        result = np.zeros_like(ids)
        for n, segment in enumerate(sample["segments_info"], start=1):
            result[ids == segment["id"]] = n
        return {"panoptic_seg": (torch.from_numpy(result.astype(np.int32)), segments)}

    return output


@pytest.fixture
def told(caplog, monkeypatch) -> Callable[[], list[str]]:
    """What the evaluators warn of; setting up a run's log stops our logger from passing it on."""
    monkeypatch.setattr(logging.getLogger("mask_former"), "propagate", True)

    def messages() -> list[str]:
        ours = [r for r in caplog.records if r.name.startswith("mask_former.d2.evaluation.")]
        return [record.getMessage() for record in ours]

    return messages
