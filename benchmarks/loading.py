"""From files to what a model trains on: our mappers on real pictures.

``loading/MAPPER``: twelve draws, of ADE20K's and COCO's validation pictures below the folder that
``DETECTRON2_DATASETS`` names. The reference is a floor for any mapper: the files are read and go
through the same draws of Detectron2's own transforms, without a check, a segment or a mask.
"""

import os
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json
from detectron2.data.detection_utils import read_image
from PIL import Image

import mask_former
from benchmarks.measure import Work
from benchmarks.training import config

SIDES = ("reference", "ours")
MAPPERS = {
    "semantic": ("MaskFormerSemanticDatasetMapper", "ade20k"),
    "panoptic": ("MaskFormerPanopticDatasetMapper", "ade20k-panoptic"),
    "detr": ("DETRPanopticDatasetMapper", "coco"),
}
CASES = tuple(f"loading/{name}" for name in MAPPERS)
DRAWS = 12


def build(case: str, side: str) -> Work:
    """One side."""
    name = case.split("/")[1]
    mapper_class, configuration = MAPPERS[name]
    cfg = config(configuration)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 151  # ADE20K's label files begin with no class, 0
    mapper: Any = getattr(mask_former, mapper_class)(cfg, True)
    samples = read_samples(name)

    def work() -> None:
        for seed in range(DRAWS):
            np.random.seed(seed)
            sample = samples[seed % len(samples)]
            mapper(sample) if side == "ours" else read_and_transform(mapper, sample)

    return work


def read_samples(name: str) -> list[dict[str, Any]]:
    """The pictures that there are and their labels, as the data sets come."""
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    if name == "semantic":
        kinds = (f"{root}/ADEChallengeData2016/{kind}" for kind in ("annotations", "images"))
        return load_sem_seg(*(f"{kind}/validation" for kind in kinds), "png", "jpg")
    classes = MetadataCatalog.get("coco_2017_val_panoptic").as_dict()
    parts = ("annotations/panoptic_val2017.json", "val2017", "panoptic_val2017")
    return load_coco_panoptic_json(*(f"{root}/coco/{part}" for part in parts), classes)


def read_and_transform(mapper: Any, sample: dict[str, Any]) -> None:
    """Only the files of a sample, by the mapper's own draws."""
    transforms = list(mapper.tfm_gens)
    if getattr(mapper, "crop_gen", None) and np.random.rand() <= 0.5:
        transforms[-1:-1] = mapper.crop_gen
    given = T.AugInput(read_image(sample["file_name"], mapper.img_format))
    labels = sample.get("sem_seg_file_name") or sample["pan_seg_file_name"]
    T.AugmentationList(transforms)(given).apply_segmentation(np.asarray(Image.open(labels)))
