"""What the mapper of instance annotations returns and refuses."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json

from mask_former.d2.data.mappers import MaskFormerInstanceDatasetMapper
from mask_former.d2.errors import InputError

TRAINING = {"image", "instances", "image_size", "valid"}


def instance_mapper(size: int = -1, **keywords: object) -> MaskFormerInstanceDatasetMapper:
    keywords = {"augmentations": [], "image_format": "RGB", "valid_mask": True, **keywords}
    return MaskFormerInstanceDatasetMapper(size_divisibility=size, **keywords)


@pytest.fixture
def instance_sample(save, image) -> dict:
    """Two overlapping boxes and a crowd on an image of 40x30 pixels."""
    boxes = [[0, 0, 10, 0, 10, 20, 0, 20]], [[5, 5, 40, 5, 40, 30, 5, 30]]
    annotations = [{"category_id": i, "segmentation": box} for i, box in enumerate(boxes)]
    annotations.append({**annotations[0], "iscrowd": 1})
    return {"file_name": save("image.png", image), "image_id": 7, "annotations": annotations}


def test_instance_sample_without_augmentation(instance_sample, image):
    before = copy.deepcopy(instance_sample)

    mapped = instance_mapper(num_classes=2)(instance_sample)

    assert instance_sample == before
    assert set(mapped) == TRAINING | {"file_name", "image_id", "width", "height"}
    assert np.array_equal(mapped["image"].permute(1, 2, 0).numpy(), image)
    instances = mapped["instances"]
    assert instances.gt_classes.tolist() == [0, 1]
    assert type(instances.gt_masks) is torch.Tensor
    assert instances.gt_masks.dtype == torch.bool
    expected = torch.zeros(2, 30, 40, dtype=torch.bool)
    expected[0, :20, :10] = True
    expected[1, 5:, 5:] = True
    assert torch.equal(instances.gt_masks, expected)
    assert mapped["valid"].all()  # the crowd is behind the first box
    assert mapped["image_size"] == (30, 40)


def test_instance_sample_is_augmented_and_padded_with_its_image(instance_sample):
    augmentations = [T.ResizeTransform(30, 40, 60, 80), T.HFlipTransform(80)]

    # Below the first box, and to a half behind the second.
    crowd = [[0, 20, 10, 20, 10, 30, 0, 30]]
    instance_sample["annotations"][2]["segmentation"] = crowd

    mapped = instance_mapper(96, augmentations=augmentations)(instance_sample)

    instances = mapped["instances"]
    expected = torch.zeros(2, 96, 96, dtype=torch.bool)
    expected[0, :40, 60:80] = True
    expected[1, 10:60, :70] = True
    assert torch.equal(instances.gt_masks, expected)
    assert mapped["image_size"] == (60, 80)
    expected = torch.zeros(96, 96, dtype=torch.bool)
    expected[:60, :80] = True
    expected[40:60, 70:80] = False
    assert torch.equal(mapped["valid"], expected)


def test_instances_that_a_crop_removes_are_gone(instance_sample):
    mapper = instance_mapper(augmentations=[T.CropTransform(20, 20, 10, 10)])

    instances = mapper(instance_sample)["instances"]

    assert instances.gt_classes.tolist() == [1]
    assert instances.gt_masks.all()


def test_instance_sample_without_instances(instance_sample):
    for annotations in ([], [{"iscrowd": 1}]):
        instance_sample["annotations"] = annotations
        mapped = instance_mapper(64)(instance_sample)
        assert mapped["instances"].gt_masks.shape == (0, 64, 64)
        assert mapped["instances"].gt_classes.dtype == torch.int64
        assert mapped["valid"].sum() == 30 * 40  # background is known


def test_instance_mapper_from_a_configuration(cfg, instance_sample):
    cfg.DATASETS.TRAIN = ("coco_2017_train",)  # which has no ignore_label
    mapper = MaskFormerInstanceDatasetMapper(cfg, True)

    names = [type(augmentation).__name__ for augmentation in mapper.tfm_gens]
    assert names == [
        *("ResizeShortestEdge", "RandomCrop_CategoryAreaConstraint"),
        *("ColorJitter", "RandomFlip"),
    ]
    assert (mapper.size_divisibility, mapper.num_classes, mapper.img_format) == (32, 11, "BGR")
    mapped = mapper(instance_sample)
    assert mapped["image"].shape == (3, 32, 32)
    assert mapped["instances"].image_size == (32, 32)


def test_instance_crop_by_area_is_refused(cfg):
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75

    with pytest.raises(InputError, match=r"SINGLE_CATEGORY_MAX_AREA below 1"):
        MaskFormerInstanceDatasetMapper(cfg, True)


def test_instance_sample_that_is_bad(instance_sample, save, image):
    with pytest.raises(InputError, match=r"annotation 1 of image .*image.png has category_id 1"):
        instance_mapper(num_classes=1)(instance_sample)
    with pytest.raises(InputError, match=r"image.png is 40x30 pixels .* says 41x30"):
        instance_mapper()({**instance_sample, "width": 41, "height": 30})
    del instance_sample["annotations"]
    with pytest.raises(InputError, match=r"image.png has no annotations, which this mapper needs"):
        instance_mapper()(instance_sample)


def test_real_coco_instances(datasets_root: Path):
    """Against the boxes that COCO's own JSON gives."""
    json_file = datasets_root / "coco" / "annotations" / "instances_val2017.json"
    if not json_file.is_file():
        pytest.skip("no COCO")
    samples = load_coco_json(str(json_file), str(datasets_root / "coco" / "val2017"), "mini_coco")
    MetadataCatalog.remove("mini_coco")
    for sample in samples:
        truth = [a for a in sample["annotations"] if not a["iscrowd"]]
        instances = instance_mapper(num_classes=80)(sample)["instances"]
        assert instances.gt_classes.tolist() == [a["category_id"] for a in truth]
        assert instances.image_size == (sample["height"], sample["width"])
        for annotation, mask in zip(truth, instances.gt_masks, strict=True):
            x, y, width, height = annotation["bbox"]
            ys, xs = np.nonzero(mask.numpy())
            assert abs(xs.min() - x) < 2
            assert abs(ys.min() - y) < 2
            assert abs(xs.max() + 1 - x - width) < 2
            assert abs(ys.max() + 1 - y - height) < 2
