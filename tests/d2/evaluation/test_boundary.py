"""Boundary IoU against its published way: class by class, by erosions."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.errors import InputError
from mask_former.d2.evaluation.boundary import boundary_region
from mask_former.d2.evaluation.choice import build_evaluator

IGNORED = 9


def published_boundary(mask: np.ndarray) -> np.ndarray:
    """Mask minus its erosion by a square, as often as 2 % of the diagonal, from outside too."""
    steps = max(1, round(0.02 * float(np.hypot(*mask.shape))))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1]
    return mask & ~eroded.astype(bool)


def blobs(seed: int, height: int, width: int, classes: int) -> np.ndarray:
    """[height, width] labels of a few large areas."""
    rng = np.random.default_rng(seed)
    small = rng.integers(classes, size=(5, 6)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (3, 200), (1, 1), (150, 40)])
def test_regions_are_the_published_ones(height, width):
    labels = blobs(0, height, width, 4)
    region = boundary_region(torch.as_tensor(labels.astype(np.int64))).numpy()
    for label in range(4):
        mask = labels == label
        assert np.array_equal(region & mask, published_boundary(mask))


@pytest.fixture
def build_with_boundary(data_set, tmp_path):
    """The evaluators of the data set as one of this type."""

    def build(evaluator_type, *options):
        MetadataCatalog.get(data_set).evaluator_type = evaluator_type
        cfg = get_mask_former_cfg()
        cfg.merge_from_list(["TEST.BOUNDARY_IOU", True, "OUTPUT_DIR", str(tmp_path), *options])
        cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
        return build_evaluator(cfg, data_set)

    return build


def test_sums_over_pictures(sample, build_with_boundary, write_image):
    """Two classes and an ignored corner, three pictures in two batches; against each erosion."""
    evaluator = build_with_boundary("sem_seg")
    evaluator.reset()
    intersections, unions = np.zeros(2), np.zeros(2)
    for seed in range(3):
        truth, found = blobs(seed, 60, 80, 2), blobs(seed + 7, 60, 80, 2)
        found[:, :20] = truth[:, :20]
        truth[:9, 70:] = IGNORED
        write_image(sample["sem_seg_file_name"], truth)
        evaluator.process(
            [{**sample, "height": 60, "width": 80}],
            [{"sem_seg": torch.as_tensor(found.astype(np.int64))}],
        )
        for label in range(2):
            masks = [published_boundary(each == label) for each in (truth, found)]
            masks = [mask & (truth != IGNORED) for mask in masks]
            intersections[label] += (masks[0] & masks[1]).sum()
            unions[label] += (masks[0] | masks[1]).sum()
    result = evaluator.evaluate()["boundary"]
    ious = 100 * intersections / unions
    assert 5 < ious.min() < ious.max() < 95
    assert result == pytest.approx({"mIoU": ious.mean(), "IoU-cat": ious[0], "IoU-sky": ious[1]})


def test_the_same_labels_fit_wholly_and_a_class_that_is_nowhere_counts_nowhere(
    sample, build_with_boundary, write_image
):
    evaluator = build_with_boundary("sem_seg")
    evaluator.reset()
    write_image(sample["sem_seg_file_name"], [[0, 0], [0, IGNORED]])
    evaluator.process([sample], [{"sem_seg": torch.zeros(2, 2, dtype=torch.int64)}])
    result = evaluator.evaluate()["boundary"]
    assert result["mIoU"] == result["IoU-cat"] == 100
    assert np.isnan(result["IoU-sky"])


def test_where_there_is_nothing_to_compare(build_with_boundary):
    with pytest.raises(InputError, match=r"TEST.BOUNDARY_IOU .* evaluated as coco, .* turn it off"):
        build_with_boundary("coco", "MODEL.MASK_FORMER.TEST.INSTANCE_ON", True)
