"""Which evaluators a data set gets, their numbers on cases worked out by hand, and bad labels."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    DatasetEvaluators,
)
from detectron2.utils import comm
from PIL import Image

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.data.reading import rgb_to_id
from mask_former.d2.errors import InputError
from mask_former.d2.evaluation import (
    CheckedPanopticEvaluator,
    CheckedSemSegEvaluator,
    build_evaluator,
)

NAME = "evaluation_test_set"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def sample(tmp_path: Path) -> dict:
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


def write_image(path: str, values) -> None:
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def write_panoptic_json(path: Path, segments: list[dict]) -> None:
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
    image = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 2}
    categories = [{"id": 0, "name": "cat", "isthing": 1}, {"id": 1, "name": "sky", "isthing": 0}]
    content = {"images": [image], "annotations": [annotation], "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def data_set(sample: dict, tmp_path: Path) -> Iterator[None]:
    """Registers the sample as a data set with two classes and 9 as ignore label."""
    DatasetCatalog.register(NAME, lambda: [sample])
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    MetadataCatalog.get(NAME).set(
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
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def build(evaluator_type: str | None, tmp_path: Path):
    if evaluator_type is not None:
        MetadataCatalog.get(NAME).evaluator_type = evaluator_type
    cfg = get_mask_former_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return build_evaluator(cfg, NAME)


@pytest.mark.usefixtures("data_set")
@pytest.mark.parametrize(
    ("evaluator_type", "expected"),
    [
        ("sem_seg", [CheckedSemSegEvaluator]),
        ("ade20k_panoptic_seg", [CheckedSemSegEvaluator, CheckedPanopticEvaluator]),
        ("coco", [COCOEvaluator]),
        ("coco_panoptic_seg", [CheckedPanopticEvaluator]),
        ("cityscapes_panoptic_seg", [CheckedPanopticEvaluator, CityscapesSemSegEvaluator]),
        ("cityscapes_instance", [CityscapesInstanceEvaluator]),
        ("cityscapes_sem_seg", [CityscapesSemSegEvaluator]),
    ],
)
def test_selection(tmp_path, evaluator_type, expected):
    evaluator = build(evaluator_type, tmp_path)
    several = isinstance(evaluator, DatasetEvaluators)
    assert several == (len(expected) > 1)
    found = evaluator._evaluators if several else [evaluator]
    assert [type(part) for part in found] == expected


@pytest.mark.usefixtures("data_set")
@pytest.mark.parametrize("evaluator_type", ["lvis", None])
def test_unknown_type(tmp_path, evaluator_type):
    with pytest.raises(NotImplementedError, match=rf"{NAME}.*known are sem_seg"):
        build(evaluator_type, tmp_path)


@pytest.mark.usefixtures("data_set")
@pytest.mark.parametrize("kind", ["cityscapes_sem_seg", "cityscapes_instance"])
def test_cityscapes_on_one_machine(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    build(kind, tmp_path)
    monkeypatch.setattr(comm, "get_rank", lambda: 2)
    with pytest.raises(InputError, match="one machine"):
        build(kind, tmp_path)


@pytest.mark.usefixtures("data_set")
def test_without_panopticapi(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "panopticapi", None)
    with pytest.raises(InputError, match=r"needs panopticapi.*tools/install_detectron2\.py"):
        build("coco_panoptic_seg", tmp_path)


def scores(labels: list[list[int]]) -> dict:
    """A semantic result whose best class of each pixel is given."""
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels), 2)
    return {"sem_seg": one_hot.permute(2, 0, 1).float()}


def evaluate(evaluator, sample: dict, output: dict) -> dict:
    evaluator.reset()
    evaluator.process([sample], [output])
    return evaluator.evaluate()


@pytest.mark.usefixtures("data_set")
def test_mean_iou(tmp_path, sample):
    # Labels 0 1 / 1 ignored. Class 0: 1 right of 2 in the union; class 1: 1 of 2.
    result = evaluate(build("sem_seg", tmp_path), sample, scores([[0, 0], [1, 1]]))["sem_seg"]
    assert result["mIoU"] == pytest.approx(50)
    assert result["pACC"] == pytest.approx(100 * 2 / 3)
    assert (tmp_path / "out" / "inference" / "sem_seg_predictions.json").is_file()


@pytest.mark.usefixtures("data_set")
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1], [1, 7]], "has ids 7, but the classes are 0 to 1 and the ignore label is 9"),
        ([[0, 1, 1], [1, 1, 1]], "is 3x2 pixels"),
        ([[[0, 0, 0]] * 2] * 2, "has 3 channels"),
    ],
)
def test_bad_labels(tmp_path, sample, labels, message):
    write_image(sample["sem_seg_file_name"], labels)
    with pytest.raises(InputError, match=message) as caught:
        evaluate(build("sem_seg", tmp_path), sample, scores([[0, 0], [0, 0]]))
    assert sample["sem_seg_file_name"] in str(caught.value)


@pytest.mark.usefixtures("data_set")
def test_missing_labels(tmp_path, sample):
    Path(sample["sem_seg_file_name"]).unlink()
    with pytest.raises(InputError, match=r"a\.png does not exist"):
        evaluate(build("sem_seg", tmp_path), sample, scores([[0, 0], [0, 0]]))


def panoptic_output(sample: dict) -> dict:
    """The ground truth as a prediction, with other segment ids."""
    ids = rgb_to_id(detection_utils.read_image(sample["pan_seg_file_name"], "RGB"))
    segments = [
        {"id": n, "category_id": s["category_id"], "isthing": s["isthing"]}
        for n, s in enumerate(sample["segments_info"], start=1)
    ]
    result = np.zeros_like(ids)
    for n, segment in enumerate(sample["segments_info"], start=1):
        result[ids == segment["id"]] = n
    return {"panoptic_seg": (torch.from_numpy(result.astype(np.int32)), segments)}


@pytest.mark.usefixtures("data_set")
@pytest.mark.parametrize("with_file_name", [True, False])
def test_panoptic_quality(tmp_path, sample, with_file_name):
    # The thing is found with IoU 2/3, one of the sky's two pixels is: an IoU of 1/2 is no match.
    output = (torch.tensor([[1, 1], [1, 2]]), panoptic_output(sample)["panoptic_seg"][1])
    if not with_file_name:
        del sample["pan_seg_file_name"]
    evaluator = build("coco_panoptic_seg", tmp_path)
    result = evaluate(evaluator, sample, {"panoptic_seg": output})["panoptic_seg"]
    assert result["PQ_th"] == pytest.approx(100 * 2 / 3)
    assert result["PQ_st"] == pytest.approx(0)
    assert result["PQ"] == pytest.approx(100 / 3)


@pytest.mark.usefixtures("data_set")
def test_panoptic_map_that_does_not_match_its_json(tmp_path, sample):
    output = panoptic_output(sample)
    write_image(sample["pan_seg_file_name"], [[[1, 0, 0]] * 2, [[5, 0, 0]] * 2])
    with pytest.raises(InputError, match=r"a\.png has segment ids 5"):
        evaluate(build("coco_panoptic_seg", tmp_path), sample, output)


def test_ground_truth_of_shapes_is_perfect(tmp_path, monkeypatch):
    path = ROOT / "datasets" / "prepare_shapes.py"
    spec = importlib.util.spec_from_file_location("prepare_shapes", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    counts = [part for split in script.SPLITS for part in (f"--num-{split}", "3")]
    script.main(["--output", str(tmp_path / "shapes"), "--seed", "0", *counts])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    cfg = get_mask_former_cfg()
    samples = DatasetCatalog.get("shapes_panoptic_val")
    evaluator = build_evaluator(cfg, "shapes_panoptic_val", str(tmp_path / "out"))
    evaluator.reset()
    for sample in samples:
        labels = np.asarray(Image.open(sample["sem_seg_file_name"])).astype(np.int64)
        classes = torch.nn.functional.one_hot(torch.from_numpy(labels), 7)
        output = {"sem_seg": classes.permute(2, 0, 1), **panoptic_output(sample)}
        size = {"height": labels.shape[0], "width": labels.shape[1]}
        evaluator.process([{**sample, **size}], [output])
    results = evaluator.evaluate()
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert results["panoptic_seg"]["PQ_th"] == pytest.approx(100)


COCO = """
import sys
import torch
from mask_former.d2.config import get_mask_former_cfg, merge_opts
from mask_former.d2.data.reading import read_panoptic_map, rgb_to_id
from mask_former.d2.trainer import Trainer

class GroundTruth(torch.nn.Module):
    def forward(self, samples):
        return [self.panoptic(**sample) for sample in samples]

    def panoptic(self, pan_seg_file_name, segments_info, **rest):
        ids = rgb_to_id(read_panoptic_map(pan_seg_file_name, segments_info))
        return {"panoptic_seg": (torch.from_numpy(ids), [dict(s) for s in segments_info])}

cfg = get_mask_former_cfg()
merge_opts(cfg, [
    "DATASETS.TEST", "('coco_2017_val_panoptic',)", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "133",
    "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", sys.argv[1],
])
print("PQ", round(Trainer.test(cfg, GroundTruth())["panoptic_seg"]["PQ"], 9))
"""


def test_ground_truth_of_coco_is_perfect(datasets_root, tmp_path, monkeypatch):
    # In its own process, because Detectron2 looks for its data sets when it is imported.
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets_root))
    command = [sys.executable, "-c", COCO, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "PQ 100.0" in done.stdout.splitlines(), done.stderr
