"""What the mappers take from a configuration, and configurations that they refuse."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform

from mask_former.d2.config import load_config
from mask_former.d2.data.augmentation import Picture, augment
from mask_former.d2.data.input_section import detr_arguments, training_arguments
from mask_former.d2.data.mappers import (
    DETRPanopticDatasetMapper,
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
    assert (crop.single_category_max_area, crop.ignored_category) == (1.0, 11)
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
    DatasetCatalog.register("set_without_ignore_label", list)

    try:
        with pytest.raises(InputError, match=r"set_without_ignore_label.*no ignore_label"):
            MaskFormerSemanticDatasetMapper(cfg, True)
    finally:
        DatasetCatalog.remove("set_without_ignore_label")
        MetadataCatalog.remove("set_without_ignore_label")


def test_configuration_of_a_misspelt_set(cfg):
    cfg.DATASETS.TRAIN = ("camvid_sem_seg_trian",)

    with pytest.raises(InputError, match=r"not registered; did you mean camvid_sem_seg_train"):
        MaskFormerSemanticDatasetMapper(cfg, True)


def test_two_ignore_labels_are_refused(cfg):
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255

    with pytest.raises(InputError, match=r"ignore_label 11, but .*IGNORE_VALUE is 255; set it to"):
        MaskFormerPanopticDatasetMapper(cfg, True)


@pytest.mark.parametrize("kind", [MaskFormerSemanticDatasetMapper, DETRPanopticDatasetMapper])
def test_random_flip_has_an_axis_or_is_none(cfg, kind):
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3)
    ways = {"horizontal": picture[:, ::-1], "vertical": picture[::-1], "none": picture}
    for axis, flipped in ways.items():
        cfg.INPUT.RANDOM_FLIP = axis
        flips = [a for a in kind(cfg, True).tfm_gens if isinstance(a, T.RandomFlip)]
        draws = [T.AugmentationList(flips)(T.AugInput(picture)) for _ in range(60)]
        found = {draw.apply_image(picture).tobytes() for draw in draws}
        assert found == {picture.tobytes(), flipped.tobytes()}

    cfg.INPUT.RANDOM_FLIP = "vertikal"
    with pytest.raises(InputError, match=r"RANDOM_FLIP is 'vertikal'; give horizontal, vert"):
        kind(cfg, True)


def test_large_scale_jitter():
    """A picture of 40 x 60 is put into 1 to 2 times 20 x 20, then cut to at most that."""
    opts = ["INPUT.SCALE_JITTER", [1.0, 2.0], "INPUT.CROP.SIZE", (20, 20)]
    cfg = load_config(opts=[*opts, "INPUT.CROP.TYPE", "absolute"])
    augmentations = training_arguments(cfg, True)["augmentations"]
    shapes = set()
    for seed in range(20):
        np.random.seed(seed)
        labels = np.arange(40 * 60).reshape(40, 60) % 5
        moved = augment(Picture(np.zeros((40, 60, 3), np.uint8), labels), augmentations)
        assert moved.sem_seg.shape == moved.image.shape[1:]
        shapes.add(moved.sem_seg.shape)
    assert max(shapes) == (20, 20)
    assert min(shapes)[0] == pytest.approx(13, abs=2)
    assert all(width == 20 for _, width in shapes)


@pytest.mark.parametrize(
    ("opts", "fault"),
    [
        (["INPUT.SCALE_JITTER", [2.0, 1.0]], r"SCALE_JITTER is \[2\.0, 1\.0\]; give the least"),
        (
            ["INPUT.SCALE_JITTER", [0.1, 2.0], "INPUT.CROP.TYPE", "relative"],
            r"SCALE_JITTER needs INPUT\.CROP\.TYPE absolute",
        ),
    ],
)
def test_large_scale_jitter_that_cannot_be(opts, fault):
    with pytest.raises(InputError, match=fault):
        training_arguments(load_config(opts=opts), True)


def test_detrs_mapper_does_not_know_large_scale_jitter():
    with pytest.raises(InputError, match=r"SCALE_JITTER is set, which .* detr_panoptic does not"):
        detr_arguments(load_config(opts=["INPUT.SCALE_JITTER", [0.1, 2.0]]), True)
