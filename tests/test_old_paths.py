"""Import paths of the original that other projects use, and its matcher on their dicts."""

from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import mask_former
from mask_former.modeling.matcher import HungarianMatcher

MAPPERS = "data.dataset_mappers"
PUBLIC = {
    "config": "add_mask_former_config",
    "mask_former_model": "MaskFormer",
    "test_time_augmentation": "SemanticSegmentorWithTTA",
    f"{MAPPERS}.mask_former_semantic_dataset_mapper": "MaskFormerSemanticDatasetMapper",
    f"{MAPPERS}.mask_former_panoptic_dataset_mapper": "MaskFormerPanopticDatasetMapper",
    f"{MAPPERS}.detr_panoptic_dataset_mapper": "DETRPanopticDatasetMapper",
}


@pytest.mark.parametrize("path", PUBLIC)
def test_a_path_gives_what_the_root_gives(path):
    module = import_module(f"mask_former.{path}")
    assert getattr(module, PUBLIC[path]) is getattr(mask_former, PUBLIC[path])


@pytest.mark.parametrize(
    ("path", "name", "number", "first"),
    [
        ("coco_stuff_10k", "COCO_CATEGORIES", 171, "person"),
        ("mapillary_vistas", "MAPILLARY_VISTAS_SEM_SEG_CATEGORIES", 65, "Bird"),
        ("ade20k_full", "ADE20K_SEM_SEG_FULL_CATEGORIES", 847, "wall"),
        ("ade20k_panoptic", "ADE20K_150_CATEGORIES", 150, "wall"),
    ],
)
def test_classes(path, name, number, first):
    classes = getattr(import_module(f"mask_former.data.datasets.register_{path}"), name)
    assert len(classes) == number
    assert classes[0]["name"] == first
    assert all("id" in entry for entry in classes)


def slow_cost(logits, masks, target, weights):
    """The cost [Q, N] of one image, a number at a time, at the size of the predicted masks."""
    queries, (height, width) = len(logits), masks.shape[-2:]
    rows = np.arange(height) * target["masks"].shape[1] // height
    columns = np.arange(width) * target["masks"].shape[2] // width
    cost = np.zeros((queries, len(target["labels"])))
    for q in range(queries):
        class_probs = logits[q].softmax(0)
        p = masks[q].sigmoid().flatten().double()
        for n, label in enumerate(target["labels"].tolist()):
            g = target["masks"][n][rows][:, columns].flatten().double()
            positive = -0.25 * (1 - p) ** 2 * p.log()
            negative = -0.75 * p**2 * (1 - p).log()
            focal = (positive * g + negative * (1 - g)).mean()
            dice = 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
            cost[q, n] = -weights[0] * class_probs[label] + weights[1] * focal + weights[2] * dice
    return cost


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("numbers", [(3, 0), (9, 1)])
def test_pairs_are_the_originals(numbers, dtype):
    g = torch.Generator().manual_seed(0)
    outputs = {
        "pred_logits": torch.randn(2, 6, 5, generator=g),
        "pred_masks": torch.randn(2, 6, 4, 5, generator=g),
        "aux_outputs": [],
    }
    targets = [
        {
            "labels": torch.randint(0, 4, (n,), generator=g),
            "masks": (torch.rand(n, 16, 20, generator=g) < 0.5).to(dtype),
        }
        for n in numbers
    ]
    weights = (1.0, 20.0, 2.0)
    pairs = HungarianMatcher(*weights)(outputs, targets)
    assert len(pairs) == 2
    for b, (queries, segments) in enumerate(pairs):
        logits, masks = outputs["pred_logits"][b], outputs["pred_masks"][b]
        expected = linear_sum_assignment(slow_cost(logits, masks, targets[b], weights))
        assert queries.tolist() == expected[0].tolist()
        assert segments.tolist() == expected[1].tolist()
        assert queries.dtype == segments.dtype == torch.int64
