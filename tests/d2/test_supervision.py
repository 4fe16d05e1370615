"""Instances as the library supervision reads them; the only use of that package."""

import numpy as np
import pytest
import torch

from tests.d2.tiny_models import HEAD, MASK_FORMER, image, make_model

sv = pytest.importorskip("supervision")


@torch.no_grad()
def test_boxes_and_masks_of_a_result():
    kinds = {f"{MASK_FORMER}.TEST.SEMANTIC_ON": False, f"{MASK_FORMER}.TEST.INSTANCE_ON": True}
    model = make_model(
        {**kinds, "DATASETS.TRAIN": ["shapes_panoptic_train"], f"{HEAD}.NUM_CLASSES": 7}
    ).eval()
    (result,) = model([image(64, 80)])
    instances = result["instances"]
    found = sv.Detections.from_detectron2(result)
    assert len(found) == len(instances) > 0
    assert np.array_equal(found.mask, instances.pred_masks.numpy())
    assert found.class_id.tolist() == instances.pred_classes.tolist()
    assert found.confidence.tolist() == instances.scores.tolist()
    inclusive = sv.mask_to_xyxy(found.mask)
    assert np.array_equal(found.xyxy[:, :2], inclusive[:, :2])
    assert np.array_equal(found.xyxy[:, 2:], inclusive[:, 2:] + 1)  # our boxes end behind the mask
    picture = np.zeros((64, 80, 3), np.uint8)
    drawn = sv.MaskAnnotator().annotate(picture.copy(), found[found.confidence > 0])
    assert (drawn != picture).any()
