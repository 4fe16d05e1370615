"""The demo's classes: names and colours."""

from types import ModuleType

import pytest
from detectron2.data import MetadataCatalog

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.errors import InputError


def test_classes_without_a_data_set(predictor: ModuleType) -> None:
    cfg = get_mask_former_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 80  # more than Detectron2 has colours
    cfg.DATASETS.TEST = ()
    metadata = predictor.class_metadata(cfg)
    assert metadata.stuff_classes[79] == metadata.thing_classes[79] == "class 79"
    assert len(metadata.stuff_colors) == len(metadata.thing_colors) == 80


def test_classes_of_the_data_set(predictor: ModuleType) -> None:
    cfg = get_mask_former_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    cfg.DATASETS.TEST = ("shapes_panoptic_val",)
    known = MetadataCatalog.get("shapes_panoptic_val")
    metadata = predictor.class_metadata(cfg)
    assert metadata.stuff_classes == known.stuff_classes
    assert metadata.thing_colors == known.thing_colors
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 8
    with pytest.raises(InputError, match=r"has 7 classes.* is 8"):
        predictor.class_metadata(cfg)
