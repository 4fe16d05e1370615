"""What the mappers take from a configuration, and configurations that they refuse."""

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform

from mask_former.d2.data.mappers import (
    MaskFormerPanopticDatasetMapper,
    MaskFormerSemanticDatasetMapper,
)
from mask_former.d2.errors import InputError


def test_semantic_mapper_from_a_configuration(cfg):
    mapper = MaskFormerSemanticDatasetMapper(cfg, True)

    resize, crop, color, flip = mapper.tfm_gens
    assert isinstance(resize, T.ResizeShortestEdge)
    assert tuple(resize.short_edge_length) == (24, 36)
    assert isinstance(crop, T.RandomCrop_CategoryAreaConstraint)
    assert (crop.single_category_max_area, crop.ignored_category) == (1.0, 255)
    assert isinstance(color, ColorAugSSDTransform)
    assert isinstance(flip, T.RandomFlip)
    assert mapper.is_train
    assert (mapper.img_format, mapper.ignore_label, mapper.size_divisibility) == ("BGR", 11, 32)
    assert mapper.num_classes == 11


def test_crop_and_colour_are_options(cfg):
    cfg.INPUT.CROP.ENABLED = cfg.INPUT.COLOR_AUG_SSD = False

    resize, flip = MaskFormerPanopticDatasetMapper(cfg, True).tfm_gens

    assert isinstance(resize, T.ResizeShortestEdge)
    assert isinstance(flip, T.RandomFlip)


def test_configuration_without_a_training_set(cfg):
    cfg.DATASETS.TRAIN = ()

    with pytest.raises(InputError, match=r"DATASETS.TRAIN is empty"):
        MaskFormerSemanticDatasetMapper(cfg, True)


def test_configuration_of_a_set_without_ignore_label(cfg):
    cfg.DATASETS.TRAIN = ("set_without_ignore_label",)

    with pytest.raises(InputError, match=r"set_without_ignore_label.*no ignore_label"):
        MaskFormerSemanticDatasetMapper(cfg, True)
    MetadataCatalog.remove("set_without_ignore_label")
