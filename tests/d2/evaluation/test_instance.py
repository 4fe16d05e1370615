"""Average precision on a case worked out by hand; true labels, instances too, evaluate to 100."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.structures import BitMasks, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from mask_former.commands.prepare_shapes import SPLITS, prepare
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.data.reading import rgb_to_id
from mask_former.d2.errors import InputError
from mask_former.d2.evaluation.choice import build_evaluator

ROOT = Path(__file__).parents[3]


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


def test_average_precision(tmp_path, sample, build, evaluate):
    masks = np.zeros((2, 20, 20), bool)
    masks[0, :10], masks[1, 10:] = True, True
    write_instances(tmp_path / "coco.json", {1: [(0, masks[0]), (0, masks[1])]}, {0: "cat"})
    # One of two is found, at every threshold: precision 1 up to a recall of 1/2, which is 51 of
    # COCO's 101 points. The prediction of class 1, sky, is nobody's instance.
    result = evaluate(build("coco"), sample, instances(masks, [0, 1]))
    assert result["segm"]["AP"] == pytest.approx(100 * 51 / 101)
    assert result["bbox"]["AP"] == pytest.approx(100 * 51 / 101)


def test_no_instance_predicted(tmp_path, sample, data_set, told, build, evaluate):
    write_instances(tmp_path / "coco.json", {1: [(0, np.ones((2, 2)))]}, {0: "cat"})
    result = evaluate(build("coco"), sample, instances(np.zeros((0, 2, 2)), []))
    assert set(result) == {"bbox", "segm"}
    assert np.isnan(result["segm"]["AP"])
    assert told() == [f"No instance of {data_set} was predicted: its AP is NaN"]


def things_of(sample: dict) -> list[tuple[int, np.ndarray]]:
    """Class and mask of each thing."""
    ids = rgb_to_id(detection_utils.read_image(sample["pan_seg_file_name"], "RGB"))
    things = [segment for segment in sample["segments_info"] if segment["isthing"]]
    return [(segment["category_id"], ids == segment["id"]) for segment in things]


@pytest.fixture
def shapes(tmp_path, monkeypatch) -> Iterator[str]:
    """The name of a small set of shapes that has a JSON of its instances."""
    prepare(tmp_path / "shapes", seed=0, counts=dict.fromkeys(SPLITS, 3))
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


def test_ground_truth_of_shapes_is_perfect(tmp_path, shapes, panoptic_output):
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
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.configuring.merging import merge_opts
from mask_former.d2.data.annotations import paint, read_panoptic_map
from mask_former.d2.trainer import Trainer

ANNOTATIONS = {s["image_id"]: s["annotations"] for s in DatasetCatalog.get("coco_2017_val")}

class GroundTruth(torch.nn.Module):
    def forward(self, samples):
        return [{**self.panoptic(**s), **self.instances(**s)} for s in samples]

    def panoptic(self, pan_seg_file_name=None, segments_info=(), **rest):
        if pan_seg_file_name is None:
            return {}
        ids = read_panoptic_map(pan_seg_file_name, segments_info).ids
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


@pytest.fixture
def halves() -> np.ndarray:
    """[2, 20, 20]; the upper half and the lower one."""
    masks = np.zeros((2, 20, 20), bool)
    masks[0, :10], masks[1, 10:] = True, True
    return masks


@pytest.mark.parametrize("missing", [(), ("iscrowd",), ("area",), ("bbox",), ("area", "bbox")])
@pytest.mark.parametrize("identity", [1, "000001"])
def test_the_least_json(tmp_path, sample, build, evaluate, halves, missing, identity):
    """Ids may be text or begin at 0, for which COCO's evaluation has a use of its own."""
    path = tmp_path / "coco.json"
    write_instances(path, {identity: [(0, mask) for mask in halves]}, {0: "cat"})
    content = json.loads(path.read_text())
    for number, entry in enumerate(content["annotations"]):
        entry["id"] = number
        for key in missing:
            del entry[key]
    path.write_text(json.dumps(content))
    sample["image_id"] = 1 if missing else identity
    result = evaluate(build("coco"), sample, instances(halves, [0, 0]))
    assert result["segm"]["AP"] == result["bbox"]["AP"] == pytest.approx(100)


def test_a_crowd_with_a_box_alone(tmp_path, sample, build, evaluate, halves):
    path = tmp_path / "coco.json"
    write_instances(path, {1: [(0, halves[0])]}, {0: "cat"})
    content = json.loads(path.read_text())
    crowd = {"id": 2, "image_id": 1, "category_id": 0, "iscrowd": 1, "bbox": [0, 10, 20, 10]}
    content["annotations"].append(crowd)
    path.write_text(json.dumps(content))
    # The second prediction is in the crowd, and so not held against the model.
    result = evaluate(build("coco"), sample, instances(halves, [0, 0]))
    assert result["segm"]["AP"] == pytest.approx(100)


def test_no_annotations(tmp_path, sample, told, build, evaluate, halves):
    path = tmp_path / "coco.json"
    write_instances(path, {1: [(0, halves[0])]}, {0: "cat"})
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    assert evaluate(build("coco"), sample, instances(halves, [0, 0])) == {}
    written = tmp_path / "out/inference/coco_instances_results.json"
    assert len(json.loads(written.read_text())) == 2
    assert told() == [
        f"{path} has no annotations, so there is nothing to compare: no AP; the predictions are in "
        f"{written}"
    ]


@pytest.mark.parametrize(("identity", "name"), [({"image_id": 5}, 5), ({}, "a/1")])
def test_no_json(tmp_path, data_set, sample, told, build, evaluate, halves, identity, name):
    metadata = MetadataCatalog.get(data_set)
    del metadata.json_file, metadata.thing_dataset_id_to_contiguous_id
    metadata.set(thing_dataset_id_to_contiguous_id={7: 0, 9: 1}, image_root="images")
    bare = {"file_name": "images/a/1.jpg", **identity}
    assert evaluate(build("coco"), bare, instances(halves, [0, 1])) == {}
    path = tmp_path / "out/inference/coco_instances_results.json"
    entries = json.loads(path.read_text())
    assert [entry["category_id"] for entry in entries] == [7, 9]
    assert {entry["image_id"] for entry in entries} == {name}
    assert told() == [
        f"Data set {data_set} has no json_file, so there is nothing to compare: no AP; the "
        f"predictions are in {path}"
    ]


def test_scores_that_are_not_finite(sample, build, evaluate, halves):
    result = instances(halves, [0, 0])
    result["instances"].scores[1] = float("nan")
    with pytest.raises(InputError, match=r"a\.jpg that are not finite"):
        evaluate(build("coco"), sample, result)
