"""Which evaluators a data set gets, their numbers on cases worked out by hand, and bad labels."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import BitMasks, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.data.reading import rgb_to_id
from mask_former.d2.errors import InputError
from mask_former.d2.evaluation import (
    CheckedPanopticEvaluator,
    CheckedSemSegEvaluator,
    InstanceEvaluator,
    SharedCityscapesInstanceEvaluator,
    SharedCityscapesSemSegEvaluator,
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


@pytest.fixture
def usable_cityscapes(monkeypatch):
    """For the choice of evaluators alone: NumPy as cityscapesscripts expects it."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)


def build(evaluator_type: str | None, tmp_path: Path, architecture: str = "", given: str = ""):
    """The evaluators, for any model, or for one of ours with the results that are ``given``."""
    if evaluator_type is not None:
        MetadataCatalog.get(NAME).evaluator_type = evaluator_type
    cfg = get_mask_former_cfg()
    if architecture:
        cfg.MODEL.META_ARCHITECTURE = architecture
        keys = ("SEMANTIC_ON", "PANOPTIC_ON", "INSTANCE_ON")
        cfg.MODEL.MASK_FORMER.TEST.update({key: key[0] in given for key in keys})
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return build_evaluator(cfg, NAME)


@pytest.mark.usefixtures("data_set", "usable_cityscapes")
@pytest.mark.parametrize(
    ("evaluator_type", "expected"),
    [
        ("sem_seg", [CheckedSemSegEvaluator]),
        ("ade20k_panoptic_seg", [CheckedSemSegEvaluator, CheckedPanopticEvaluator]),
        ("coco", [InstanceEvaluator]),
        ("coco_panoptic_seg", [CheckedPanopticEvaluator]),
        ("cityscapes_panoptic_seg", [CheckedPanopticEvaluator, SharedCityscapesSemSegEvaluator]),
        ("cityscapes_instance", [SharedCityscapesInstanceEvaluator]),
        ("cityscapes_sem_seg", [SharedCityscapesSemSegEvaluator]),
    ],
)
def test_selection(tmp_path, evaluator_type, expected):
    assert types_of(build(evaluator_type, tmp_path)) == expected


def types_of(evaluator) -> list[type]:
    several = isinstance(evaluator, DatasetEvaluators)
    assert not several or len(evaluator._evaluators) > 1
    return [type(part) for part in (evaluator._evaluators if several else [evaluator])]


@pytest.mark.usefixtures("data_set", "usable_cityscapes")
@pytest.mark.parametrize(
    ("evaluator_type", "given", "expected"),
    [
        ("ade20k_panoptic_seg", "SP", [CheckedSemSegEvaluator, CheckedPanopticEvaluator]),
        ("ade20k_panoptic_seg", "S", [CheckedSemSegEvaluator]),
        ("ade20k_panoptic_seg", "PI", [CheckedPanopticEvaluator, InstanceEvaluator]),
        ("coco_panoptic_seg", "SP", [CheckedPanopticEvaluator]),
        ("coco_panoptic_seg", "SPI", [CheckedPanopticEvaluator, InstanceEvaluator]),
        ("coco", "SI", [InstanceEvaluator]),
        ("cityscapes_panoptic_seg", "S", [SharedCityscapesSemSegEvaluator]),
    ],
)
def test_selection_by_the_results_of_the_model(tmp_path, evaluator_type, given, expected):
    assert types_of(build(evaluator_type, tmp_path, "MaskFormer", given)) == expected


@pytest.mark.usefixtures("data_set", "usable_cityscapes")
def test_instances_of_cityscapes_panoptic(tmp_path):
    MetadataCatalog.get(NAME).gt_dir = str(tmp_path)
    evaluator = build("cityscapes_panoptic_seg", tmp_path, "MaskFormer", "PI")
    assert types_of(evaluator) == [CheckedPanopticEvaluator, SharedCityscapesInstanceEvaluator]


@pytest.mark.usefixtures("data_set")
def test_panoptic_set_without_instances(tmp_path):
    del MetadataCatalog.get(NAME).json_file
    evaluator = build("coco_panoptic_seg", tmp_path, "MaskFormer", "PI")
    assert types_of(evaluator) == [CheckedPanopticEvaluator]


@pytest.mark.usefixtures("data_set", "usable_cityscapes")
@pytest.mark.parametrize(
    ("evaluator_type", "given", "key"),
    [
        ("sem_seg", "PI", "SEMANTIC_ON"),
        ("ade20k_panoptic_seg", "I", "SEMANTIC_ON or MODEL.MASK_FORMER.TEST.PANOPTIC_ON"),
        ("coco_panoptic_seg", "SI", "PANOPTIC_ON"),
        ("coco", "SP", "INSTANCE_ON"),
        ("cityscapes_instance", "S", "INSTANCE_ON"),
    ],
)
def test_result_that_the_model_does_not_give(tmp_path, evaluator_type, given, key):
    message = rf"{NAME} is evaluated as {evaluator_type},.* set MODEL.MASK_FORMER.TEST.{key} True"
    with pytest.raises(InputError, match=message):
        build(evaluator_type, tmp_path, "MaskFormer", given)


@pytest.mark.usefixtures("data_set")
def test_results_of_a_per_pixel_model(tmp_path):
    evaluator = build("ade20k_panoptic_seg", tmp_path, "SemanticSegmentor", "SPI")
    assert types_of(evaluator) == [CheckedSemSegEvaluator]


@pytest.mark.usefixtures("data_set")
def test_result_that_a_per_pixel_model_cannot_give(tmp_path):
    with pytest.raises(
        InputError, match=r"coco_panoptic_seg.*\"SemanticSegmentor\" gives semantic"
    ):
        build("coco_panoptic_seg", tmp_path, "SemanticSegmentor", "SPI")


@pytest.mark.usefixtures("data_set")
@pytest.mark.parametrize("evaluator_type", ["lvis", None])
def test_unknown_type(tmp_path, evaluator_type):
    with pytest.raises(NotImplementedError, match=rf"{NAME}.*known are sem_seg"):
        build(evaluator_type, tmp_path)


@pytest.mark.usefixtures("data_set", "usable_cityscapes")
@pytest.mark.parametrize(
    ("evaluator_type", "package", "command"),
    [
        ("coco_panoptic_seg", "panopticapi", r"python tools/install_detectron2\.py"),
        ("cityscapes_sem_seg", "cityscapesscripts", "pip install cityscapesscripts"),
        ("cityscapes_instance", "cityscapesscripts", "pip install cityscapesscripts"),
    ],
)
def test_without_a_package(tmp_path, monkeypatch, evaluator_type, package, command):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{NAME} needs {package}; install it with `{command}`"):
        build(evaluator_type, tmp_path)


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
def test_labels_count_as_their_scores(tmp_path, sample):
    evaluator = build("sem_seg", tmp_path)
    given = {"sem_seg": torch.tensor([[0, 0], [1, 1]])}
    result = evaluate(evaluator, sample, given)["sem_seg"]
    assert result == evaluate(evaluator, sample, scores([[0, 0], [1, 1]]))["sem_seg"]
    assert given["sem_seg"].shape == (2, 2)


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


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What our logger warns of; setting up a run's log stops it from passing it on."""
    monkeypatch.setattr(logging.getLogger("mask_former"), "propagate", True)
    return caplog


def told(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "mask_former.d2.evaluation"]


@pytest.mark.usefixtures("data_set")
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_label_maps_without_a_class(tmp_path, sample, warnings):
    write_image(sample["sem_seg_file_name"], [[9, 9], [9, 9]])
    result = evaluate(build("sem_seg", tmp_path), sample, scores([[0, 0], [1, 1]]))["sem_seg"]
    assert np.isnan([result["mIoU"], result["pACC"], result["IoU-cat"]]).all()
    line = f"No pixel of the label maps of {NAME} has a class: its semantic results are NaN"
    assert told(warnings) == [line]


@pytest.mark.usefixtures("data_set")
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_image_at_all(tmp_path, warnings):
    evaluator = build("ade20k_panoptic_seg", tmp_path)
    evaluator.reset()
    assert set(evaluator.evaluate()) == {"sem_seg"}
    assert told(warnings)[1:] == [f"No image of {NAME} was predicted: no panoptic result"]


@pytest.mark.usefixtures("data_set")
def test_no_segment_at_all(tmp_path, sample, warnings):
    write_image(sample["pan_seg_file_name"], [[[0, 0, 0]] * 2] * 2)
    write_panoptic_json(tmp_path / "p.json", [])
    sample["segments_info"] = []
    output = {"panoptic_seg": (torch.zeros(2, 2, dtype=torch.int32), [])}
    result = evaluate(build("coco_panoptic_seg", tmp_path), sample, output)["panoptic_seg"]
    assert len(result) == 9
    assert np.isnan(list(result.values())).all()
    names = ("segment", "thing", "stuff")
    assert told(warnings) == [f"{NAME} has no {n}, true or predicted: its PQ is NaN" for n in names]


@pytest.mark.usefixtures("data_set")
def test_things_alone(tmp_path, sample, warnings):
    write_image(sample["pan_seg_file_name"], [[[1, 0, 0]] * 2, [[0, 0, 0]] * 2])
    del sample["segments_info"][1]
    (segment,) = sample["segments_info"]
    truth = {key: value for key, value in segment.items() if key != "isthing"}
    write_panoptic_json(tmp_path / "p.json", [truth])
    evaluator = build("coco_panoptic_seg", tmp_path)
    result = evaluate(evaluator, sample, panoptic_output(sample))["panoptic_seg"]
    assert result["PQ"] == result["PQ_th"] == result["SQ_th"] == result["RQ"] == 100
    assert np.isnan(result["PQ_st"])
    assert told(warnings) == [f"{NAME} has no stuff, true or predicted: its PQ is NaN"]
    saved = json.loads((tmp_path / "out" / "inference" / "predictions.json").read_text())
    assert saved["annotations"][0]["segments_info"][0]["category_id"] == 0


@pytest.mark.usefixtures("data_set")
def test_image_without_prediction(tmp_path, sample):
    output = panoptic_output(sample)
    with pytest.raises(InputError, match=r"1 images of .*p\.json have no prediction, such as 1;"):
        evaluate(build("coco_panoptic_seg", tmp_path), {**sample, "image_id": 2}, output)


def instances(masks, classes: list[int]) -> dict:
    """An instance result whose scores are 1."""
    masks = torch.as_tensor(np.asarray(masks), dtype=torch.bool)
    found = Instances(tuple(masks.shape[-2:]), pred_masks=masks, scores=torch.ones(len(masks)))
    found.pred_boxes = BitMasks(masks).get_bounding_boxes()
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return {"instances": found}


def write_instances(path: Path, masks: dict[int, list], categories: dict[int, str]) -> None:
    """COCO's JSON of the (category, mask) pairs of each image."""
    images, annotations = [], []
    for image, pairs in masks.items():
        height, width = pairs[0][1].shape
        images.append({"id": image, "height": height, "width": width, "file_name": str(image)})
        for category, mask in pairs:
            run_lengths = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotation = {"segmentation": {**run_lengths, "counts": run_lengths["counts"].decode()}}
            annotation |= {"image_id": image, "category_id": category, "iscrowd": 0}
            annotation |= {"bbox": coco_mask.toBbox(run_lengths).tolist()}
            annotation |= {"area": int(mask.sum()), "id": len(annotations) + 1}
            annotations.append(annotation)
    listed = [{"id": id_, "name": name} for id_, name in categories.items()]
    content = {"images": images, "annotations": annotations, "categories": listed}
    path.write_text(json.dumps({"info": {}, **content}), encoding="utf-8")


@pytest.mark.usefixtures("data_set")
def test_average_precision(tmp_path, sample):
    masks = np.zeros((2, 20, 20), bool)
    masks[0, :10], masks[1, 10:] = True, True
    write_instances(tmp_path / "coco.json", {1: [(0, masks[0]), (0, masks[1])]}, {0: "cat"})
    # One of two is found, at every threshold: precision 1 up to a recall of 1/2, which is 51 of
    # COCO's 101 points. The prediction of class 1, sky, is nobody's instance.
    result = evaluate(build("coco", tmp_path), sample, instances(masks, [0, 1]))
    assert result["segm"]["AP"] == pytest.approx(100 * 51 / 101)
    assert result["bbox"]["AP"] == pytest.approx(100 * 51 / 101)


@pytest.mark.usefixtures("data_set")
def test_no_instance_predicted(tmp_path, sample, warnings):
    write_instances(tmp_path / "coco.json", {1: [(0, np.ones((2, 2)))]}, {0: "cat"})
    result = evaluate(build("coco", tmp_path), sample, instances(np.zeros((0, 2, 2)), []))
    assert set(result) == {"bbox", "segm"}
    assert np.isnan(result["segm"]["AP"])
    assert told(warnings) == [f"No instance of {NAME} was predicted: its AP is NaN"]


def things_of(sample: dict) -> list[tuple[int, np.ndarray]]:
    """Class and mask of each thing."""
    ids = rgb_to_id(detection_utils.read_image(sample["pan_seg_file_name"], "RGB"))
    things = [segment for segment in sample["segments_info"] if segment["isthing"]]
    return [(segment["category_id"], ids == segment["id"]) for segment in things]


@pytest.fixture
def shapes(tmp_path, monkeypatch) -> Iterator[str]:
    """The name of a small set of shapes that has a JSON of its instances."""
    path = ROOT / "datasets" / "prepare_shapes.py"
    spec = importlib.util.spec_from_file_location("prepare_shapes", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    counts = [part for split in script.SPLITS for part in (f"--num-{split}", "3")]
    script.main(["--output", str(tmp_path / "shapes"), "--seed", "0", *counts])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    samples = DatasetCatalog.get("shapes_panoptic_val")
    metadata = MetadataCatalog.get("shapes_panoptic_val").as_dict()
    things = {
        i: metadata["thing_classes"][i] for i in metadata["thing_dataset_id_to_contiguous_id"]
    }
    json_file = tmp_path / "instances.json"
    write_instances(json_file, {s["image_id"]: things_of(s) for s in samples}, things)
    name = "shapes_instances"
    DatasetCatalog.register(name, lambda: samples)
    MetadataCatalog.get(name).set(**{**metadata, "name": name, "json_file": str(json_file)})
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_ground_truth_of_shapes_is_perfect(tmp_path, shapes):
    cfg = get_mask_former_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = True
    evaluator = build_evaluator(cfg, shapes, str(tmp_path / "out"))
    evaluator.reset()
    for sample in DatasetCatalog.get(shapes):
        labels = np.asarray(Image.open(sample["sem_seg_file_name"])).astype(np.int64)
        scores = torch.nn.functional.one_hot(torch.from_numpy(labels), 7)
        classes, masks = zip(*things_of(sample), strict=True)
        output = {"sem_seg": scores.permute(2, 0, 1), **panoptic_output(sample)}
        output |= instances(np.stack(masks), list(classes))
        size = {"height": labels.shape[0], "width": labels.shape[1]}
        evaluator.process([{**sample, **size}], [output])
    results = evaluator.evaluate()
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert results["panoptic_seg"]["PQ_th"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)


COCO = """
import sys
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BitMasks, Instances
from mask_former.d2.config import get_mask_former_cfg, merge_opts
from mask_former.d2.data.annotations import paint
from mask_former.d2.data.reading import read_panoptic_map, rgb_to_id
from mask_former.d2.trainer import Trainer

ANNOTATIONS = {s["image_id"]: s["annotations"] for s in DatasetCatalog.get("coco_2017_val")}

class GroundTruth(torch.nn.Module):
    def forward(self, samples):
        return [{**self.panoptic(**s), **self.instances(**s)} for s in samples]

    def panoptic(self, pan_seg_file_name=None, segments_info=(), **rest):
        if pan_seg_file_name is None:
            return {}
        ids = rgb_to_id(read_panoptic_map(pan_seg_file_name, segments_info))
        return {"panoptic_seg": (torch.from_numpy(ids), [dict(s) for s in segments_info])}

    def instances(self, file_name, image_id, height, width, **rest):
        painted = paint(ANNOTATIONS[image_id], file_name, (height, width), 80)
        found = Instances((height, width), pred_masks=torch.from_numpy(painted.masks).bool())
        found.pred_boxes = BitMasks(found.pred_masks).get_bounding_boxes()
        found.pred_classes = torch.tensor([a["category_id"] for a in painted.annotations])
        found.scores = torch.ones(len(found))
        return {"instances": found}

for name, classes in (("coco_2017_val", "80"), ("coco_2017_val_panoptic", "133")):
    cfg = get_mask_former_cfg()
    merge_opts(cfg, [
        "MODEL.META_ARCHITECTURE", "MaskFormer", "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "True",
        "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "True", "DATASETS.TEST", f"('{name}',)",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes, "DATALOADER.NUM_WORKERS", "0",
        "OUTPUT_DIR", sys.argv[1],
    ])
    results = Trainer.test(cfg, GroundTruth())
    for key, result in results.items():
        print(name, key, round(result.get("PQ", result.get("AP")), 6))
"""


def test_ground_truth_of_coco_is_perfect(datasets_root, tmp_path, monkeypatch):
    # In its own process, because Detectron2 looks for its data sets when it is imported.
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets_root))
    command = [sys.executable, "-c", COCO, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    printed = done.stdout.splitlines()
    assert "coco_2017_val segm 100.0" in printed, done.stderr
    assert "coco_2017_val_panoptic panoptic_seg 100.0" in printed
    assert "coco_2017_val_panoptic segm 100.0" in printed


CITYSCAPES = """
import sys
from pathlib import Path
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image
from mask_former.d2.evaluation import (
    SharedCityscapesInstanceEvaluator,
    SharedCityscapesSemSegEvaluator,
)

folder, rank, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if count > 1:
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/rendezvous", rank=rank, world_size=count
    )
names = ["road", "sidewalk", "car"]
MetadataCatalog.get("mini").set(thing_classes=names, gt_dir=str(folder / "gt"))
evaluators = [SharedCityscapesSemSegEvaluator("mini"), SharedCityscapesInstanceEvaluator("mini")]
for evaluator in evaluators:
    evaluator.reset()
for image in (1, 2):
    if image % count != rank:
        continue
    stem = f"frankfurt_000000_00000{image}"
    ids = np.asarray(Image.open(folder / "gt" / "frankfurt" / f"{stem}_gtFine_instanceIds.png"))
    labels = torch.zeros(19, 40, 60)
    labels[13] = torch.from_numpy(ids >= 1000)  # car
    labels[0] = torch.from_numpy(ids == 7)  # road
    if image == 2:  # the road of the right half is called sidewalk
        labels[1, :, 30:] = labels[0, :, 30:]
        labels[0, :, 30:] = 0
    cars = Instances((40, 60), pred_masks=torch.from_numpy(ids == 26001)[None])
    cars.pred_classes, cars.scores = torch.tensor([2]), torch.ones(1)
    sample = {"file_name": f"{stem}_leftImg8bit.png"}
    for evaluator in evaluators:
        semantic = labels if image == 1 else labels.argmax(0)  # SEM_SEG_OUTPUT "labels"
        evaluator.process([sample], [{"sem_seg": semantic, "instances": cars}])
for evaluator in evaluators:
    result = evaluator.evaluate()
    if result is not None:
        print(rank, {k: round(v, 4) for part in result.values() for k, v in part.items()})
    assert not Path(evaluator._temp_dir).exists()
"""


def write_cityscapes(folder: Path) -> None:
    """Two frames of road with a car each, in the format of the data set's ground truth."""
    (folder / "gt" / "frankfurt").mkdir(parents=True)
    ids = np.full((40, 60), 7, np.uint16)
    ids[:20, :20] = 26001
    for image in (1, 2):
        stem = folder / "gt" / "frankfurt" / f"frankfurt_000000_00000{image}_gtFine"
        Image.fromarray(ids).save(f"{stem}_instanceIds.png")
        labels = np.where(ids == 26001, 26, ids).astype(np.uint8)
        Image.fromarray(labels).save(f"{stem}_labelIds.png")


@pytest.mark.parametrize("count", [1, 2])
def test_cityscapes_on_several_machines(tmp_path, count):
    """Processes that share no temporary folder, as on machines of their own."""
    pytest.importorskip("cityscapesscripts")
    write_cityscapes(tmp_path)
    if not hasattr(np, "in1d"):
        with pytest.raises(InputError, match=r"calls numpy\.in1d, and NumPy .* no longer has it"):
            build_evaluator(get_mask_former_cfg(), "cityscapes_fine_sem_seg_val", str(tmp_path))
        return
    processes = []
    for rank in range(count):
        (tmp_path / f"tmp{rank}").mkdir()
        command = [sys.executable, "-W", "ignore", "-c", CITYSCAPES, str(tmp_path), str(rank)]
        environment = {"TMPDIR": str(tmp_path / f"tmp{rank}"), "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(
            # Here, because cityscapesscripts leaves a file in the working directory.
            subprocess.Popen([*command, str(count)], cwd=tmp_path, env=environment, **pipes)
        )
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    semantic, instance = [line for line in outputs[0][0].splitlines() if line.startswith("0 {")]
    # Of the 4000 pixels of road 1200 are missed, which are all of a wrong sidewalk; the car is
    # whole.
    assert f"'IoU': {round(100 * (2800 / 4000 + 0 + 1) / 3, 4)}" in semantic
    assert "'AP': 100.0, 'AP50': 100.0" in instance
    assert all("{" not in stdout for stdout, _ in outputs[1:])


@pytest.mark.parametrize(
    "kind", [SharedCityscapesSemSegEvaluator, SharedCityscapesInstanceEvaluator]
)
def test_cityscapes_without_an_image(kind, warnings):
    evaluator = kind(NAME)
    evaluator.reset()
    assert evaluator.evaluate() == {}
    assert told(warnings) == [f"No image of {NAME} was predicted: no result"]
    MetadataCatalog.remove(NAME)
