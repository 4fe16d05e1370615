"""From files to what a model trains on: our mappers on real pictures.

``loading/MAPPER``: twelve draws, of ADE20K's and COCO's validation pictures below the folder that
``DETECTRON2_DATASETS`` names. The reference is a floor for any mapper: the files are read and go
through the same draws of Detectron2's own transforms, without a check, a segment or a mask.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from PIL import Image

import mask_former
from benchmarks.measure import Work
from benchmarks.training import CONFIGS, config

SIDES = ("reference", "ours")
MAPPERS = {
    "semantic": ("MaskFormerSemanticDatasetMapper", CONFIGS["ade20k"]),
    "panoptic": ("MaskFormerPanopticDatasetMapper", CONFIGS["ade20k-panoptic"]),
    "detr": ("DETRPanopticDatasetMapper", CONFIGS["coco"]),
}
CASES = tuple(f"loading/{name}" for name in MAPPERS)
DRAWS = 12


def build(case: str, side: str) -> Work:
    """One side."""
    name = case.split("/")[1]
    mapper_class, file = MAPPERS[name]
    cfg = config(file)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 151  # ADE20K's label files begin with no class, 0
    mapper = getattr(mask_former, mapper_class)(cfg, True)
    samples = ade20k_samples() if name == "semantic" else coco_samples()
    load = mapper if side == "ours" else floor(mapper)

    def work() -> None:
        for seed in range(DRAWS):
            np.random.seed(seed)
            load(samples[seed % len(samples)])

    return work


def floor(mapper: Any) -> Callable[[dict[str, Any]], None]:
    """Reads the files of a sample and applies the mapper's own draws to them."""

    def load(sample: dict[str, Any]) -> None:
        transforms = list(mapper.tfm_gens)
        if getattr(mapper, "crop_gen", None) and np.random.rand() <= 0.5:
            transforms[-1:-1] = mapper.crop_gen
        given = T.AugInput(read_image(sample["file_name"], mapper.img_format))
        labels = sample.get("sem_seg_file_name") or sample["pan_seg_file_name"]
        T.AugmentationList(transforms)(given).apply_segmentation(np.asarray(Image.open(labels)))

    return load


def ade20k_samples() -> list[dict[str, Any]]:
    """Pictures and label files."""
    return [
        {
            "file_name": f"{labels.parents[2] / 'images/validation' / labels.stem}.jpg",
            "sem_seg_file_name": str(labels),
        }
        for labels in found("ADEChallengeData2016/annotations/validation/*.png")
    ]


def coco_samples() -> list[dict[str, Any]]:
    """Pictures and their panoptic maps; categories are cut to the classes that there are."""
    (path,) = found("coco/annotations/panoptic_val2017.json")
    return [
        {
            "file_name": f"{path.parents[1] / 'val2017' / Path(x['file_name']).stem}.jpg",
            "pan_seg_file_name": str(path.parents[1] / "panoptic_val2017" / x["file_name"]),
            "segments_info": [
                segment | {"category_id": segment["category_id"] % 133}
                for segment in x["segments_info"]
            ],
        }
        for x in json.loads(path.read_text(encoding="utf-8"))["annotations"]
    ]


def found(pattern: str) -> list[Path]:
    """Files below the root of the data sets, of which there must be one."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    paths = sorted(root.glob(pattern))
    if not paths:
        raise SystemExit(f"no {root / pattern}; DETECTRON2_DATASETS may name another root")
    return paths
