"""What the mapper of DETR returns, in training and at inference."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from mask_former.d2.data.mappers import DETRPanopticDatasetMapper


def detr_cfg(cfg: CfgNode) -> CfgNode:
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.SIZE = (384, 600)
    return cfg


def test_detr_mapper_from_a_configuration(cfg):
    mapper = DETRPanopticDatasetMapper(detr_cfg(cfg), True)

    flip, resize = mapper.tfm_gens
    assert isinstance(flip, T.RandomFlip)
    assert tuple(resize.short_edge_length) == (24, 36)
    before, crop = mapper.crop_gen
    assert before.short_edge_length == [400, 500, 600]
    assert (crop.crop_type, tuple(crop.crop_size)) == ("absolute_range", (384, 600))
    assert (mapper.is_train, mapper.img_format) == (True, "BGR")

    cfg.INPUT.CROP.ENABLED = False
    assert DETRPanopticDatasetMapper(cfg, True).crop_gen is None


def test_detr_crops_when_the_first_draw_is_low(cfg, panoptic_sample):
    mapper = DETRPanopticDatasetMapper(detr_cfg(cfg), True)
    plain = DETRPanopticDatasetMapper(
        crop_gen=None, tfm_gens=mapper.tfm_gens, image_format="BGR", num_classes=11
    )
    cropped = DETRPanopticDatasetMapper(
        crop_gen=None,
        tfm_gens=mapper.tfm_gens[:-1] + mapper.crop_gen + mapper.tfm_gens[-1:],
        image_format="BGR",
    )
    seen = set()
    for value in range(6):
        np.random.seed(value)
        mapped = mapper(panoptic_sample)
        np.random.seed(value)
        is_cropped = np.random.rand() <= 0.5
        expected = (cropped if is_cropped else plain)(panoptic_sample)
        assert torch.equal(mapped["image"], expected["image"])
        assert torch.equal(mapped["instances"].gt_masks, expected["instances"].gt_masks)
        seen.add(is_cropped)
    assert seen == {True, False}


def test_detr_sample(panoptic_sample, colors):
    panoptic_sample["sem_seg_file_name"] = "untouched.png"

    mapper = DETRPanopticDatasetMapper(
        crop_gen=None, tfm_gens=[], image_format="RGB", valid_mask=True
    )
    mapped = mapper(panoptic_sample)

    assert mapped["sem_seg_file_name"] == "untouched.png"
    assert "pan_seg_file_name" not in mapped
    assert "sem_seg" not in mapped
    assert mapped["instances"].image_size == (30, 40)
    assert np.array_equal(mapped["instances"].gt_masks[0].numpy(), colors[:, :, 0] == 2)
    assert mapped["image_size"] == (30, 40)
    assert np.array_equal(mapped["valid"].numpy(), colors[:, :, 0] != 0)


def test_detr_sample_without_a_panoptic_map_has_no_instances(semantic_sample):
    mapper = DETRPanopticDatasetMapper(crop_gen=None, tfm_gens=[], image_format="RGB")

    assert "instances" not in mapper(semantic_sample)


def test_detr_sample_at_inference(cfg, panoptic_sample):
    cfg.INPUT.MIN_SIZE_TEST = 60
    mapper = DETRPanopticDatasetMapper(cfg, False)

    mapped = mapper({**panoptic_sample, "annotations": []})

    assert mapper.crop_gen is None
    assert mapped["image"].shape == (3, 60, 80)
    assert "annotations" not in mapped
    assert "instances" not in mapped
