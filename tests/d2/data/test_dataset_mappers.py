"""What the mappers return, from configurations and from keywords, and what they refuse."""

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.projects.point_rend import ColorAugSSDTransform
from PIL import Image
from torch.utils.data import DataLoader

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.data.dataset_mappers import (
    DETRPanopticDatasetMapper,
    EvaluationMapper,
    MaskFormerInstanceDatasetMapper,
    MaskFormerPanopticDatasetMapper,
    MaskFormerSemanticDatasetMapper,
)
from mask_former.d2.data.datasets import SemanticSet, register_all
from mask_former.d2.errors import InputError

TRAINING = {"image", "instances", "image_size", "valid"}
KEYWORDS = {"augmentations": [], "image_format": "RGB", "ignore_label": 255}


def semantic_mapper(size: int = -1, **keywords: object) -> MaskFormerSemanticDatasetMapper:
    return MaskFormerSemanticDatasetMapper(size_divisibility=size, **{**KEYWORDS, **keywords})


def panoptic_mapper(size: int = -1, **keywords: object) -> MaskFormerPanopticDatasetMapper:
    return MaskFormerPanopticDatasetMapper(size_divisibility=size, **{**KEYWORDS, **keywords})


@pytest.fixture
def cfg() -> CfgNode:
    register_all()
    cfg = get_mask_former_cfg()
    cfg.DATASETS.TRAIN = ("camvid_sem_seg_train",)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 11
    cfg.INPUT.MIN_SIZE_TRAIN = (24, 36)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.SIZE_DIVISIBILITY = 32
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = (20, 28)
    cfg.INPUT.COLOR_AUG_SSD = True
    return cfg


def seed(value: int) -> None:
    np.random.seed(value)
    random.seed(value)


def test_semantic_sample_without_augmentation(semantic_sample, image, labels):
    before = copy.deepcopy(semantic_sample)

    mapped = semantic_mapper(image_format="BGR")(semantic_sample)

    assert semantic_sample == before
    assert set(mapped) == TRAINING | {"file_name", "width", "height", "sem_seg"}
    assert (mapped["width"], mapped["height"]) == (40, 30)
    assert np.array_equal(mapped["image"].permute(1, 2, 0).numpy(), image[:, :, ::-1])
    assert np.array_equal(mapped["sem_seg"].numpy(), labels)
    assert mapped["image"].dtype == torch.uint8
    assert mapped["sem_seg"].dtype == torch.int64
    instances = mapped["instances"]
    assert instances.gt_classes.tolist() == [0, 1, 2]
    for label, mask in enumerate(instances.gt_masks):
        assert np.array_equal(mask.numpy(), labels == label)
    assert mapped["image_size"] == (30, 40)
    assert np.array_equal(mapped["valid"].numpy(), labels != 255)


def test_semantic_sample_is_padded_to_a_side(semantic_sample, labels):
    mapped = semantic_mapper(64)(semantic_sample)

    assert mapped["image"].shape == (3, 64, 64)
    assert (mapped["image"][:, 30:] == 128).all()
    assert (mapped["image"][:, :, 40:] == 128).all()
    assert np.array_equal(mapped["sem_seg"][:30, :40].numpy(), labels)
    assert (mapped["sem_seg"][30:] == 255).all()
    assert mapped["instances"].image_size == (64, 64)
    assert mapped["instances"].gt_masks.sum() == (labels != 255).sum()
    assert (mapped["width"], mapped["height"]) == (40, 30)
    assert mapped["image_size"] == (30, 40)
    assert mapped["valid"].dtype == torch.bool
    assert mapped["valid"].shape == (64, 64)
    assert np.array_equal(mapped["valid"][:30, :40].numpy(), labels != 255)
    assert mapped["valid"].sum() == (labels != 255).sum()


def test_semantic_sample_larger_than_the_side_is_cut(semantic_sample, labels):
    mapped = semantic_mapper(16)(semantic_sample)

    assert np.array_equal(mapped["sem_seg"].numpy(), labels[:16, :16])
    assert mapped["instances"].gt_masks.shape == (3, 16, 16)
    assert mapped["image_size"] == (16, 16)
    assert np.array_equal(mapped["valid"].numpy(), labels[:16, :16] != 255)


def test_padding_of_one_side_while_the_other_is_cut(semantic_sample):
    mapped = semantic_mapper(35)(semantic_sample)

    assert mapped["image"].shape == (3, 35, 35)
    assert mapped["image_size"] == (30, 35)


def test_ignored_sample_has_no_segments(semantic_sample, save):
    save("labels.png", np.full((30, 40), 255, dtype=np.uint8))

    instances = semantic_mapper(num_classes=3)(semantic_sample)["instances"]

    assert instances.gt_classes.dtype == torch.int64
    assert instances.gt_masks.dtype == torch.float32
    assert instances.gt_masks.shape == (0, 30, 40)


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


def test_a_seed_fixes_the_sample(cfg, semantic_sample, save, labels):
    save("labels.png", np.minimum(labels, 11))
    mapper = MaskFormerSemanticDatasetMapper(cfg, True)

    seed(3)
    first = mapper(semantic_sample)
    seed(3)
    again = mapper(semantic_sample)
    others = [mapper(semantic_sample) for _ in range(4)]

    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["sem_seg"], again["sem_seg"])
    assert not all(torch.equal(first["image"], other["image"]) for other in others)
    assert first["image"].shape == (3, 32, 32)
    assert (first["sem_seg"][20:] == 11).all()


def test_numpy_draws_the_geometry_and_python_the_colours(cfg, semantic_sample, save, labels):
    save("labels.png", np.minimum(labels, 11))
    mapper = MaskFormerSemanticDatasetMapper(cfg, True)
    samples = []
    for python_seed in range(4):
        np.random.seed(0)
        random.seed(python_seed)
        samples.append(mapper(semantic_sample))

    assert all(torch.equal(samples[0]["sem_seg"], other["sem_seg"]) for other in samples)
    assert not all(torch.equal(samples[0]["image"], other["image"]) for other in samples)


def test_draws_come_in_the_order_resize_crop_flip(cfg, semantic_sample, image, save, labels):
    save("labels.png", np.minimum(labels, 11))
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.SIZE_DIVISIBILITY = -1

    np.random.seed(5)
    mapped = MaskFormerSemanticDatasetMapper(cfg, True)(semantic_sample)

    np.random.seed(5)
    height = np.random.choice((24, 36))
    width = int(height / 30 * 40 + 0.5)
    y, x = np.random.randint(height - 20 + 1), np.random.randint(width - 28 + 1)
    flipped = np.random.uniform() < 0.5
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    expected = expected[y : y + 20, x : x + 28]
    expected = expected[:, ::-1] if flipped else expected
    assert np.array_equal(mapped["image"].permute(1, 2, 0).numpy(), expected)


def test_panoptic_sample_without_augmentation(panoptic_sample, colors, segments):
    before = copy.deepcopy(panoptic_sample)

    mapped = panoptic_mapper()(panoptic_sample)

    assert panoptic_sample == before
    assert set(mapped) == TRAINING | {"file_name", "image_id", "width", "height", "segments_info"}
    assert mapped["segments_info"] == segments
    assert mapped["instances"].gt_classes.tolist() == [2, 0]
    thing, stuff = mapped["instances"].gt_masks
    assert np.array_equal(thing.numpy(), colors[:, :, 0] == 2)
    assert np.array_equal(stuff.numpy(), colors[:, :, 0] == 1)
    assert np.array_equal(mapped["valid"].numpy(), colors[:, :, 0] != 0)
    assert mapped["image_size"] == (30, 40)


def test_panoptic_void_and_crowds_and_padding_are_not_valid(panoptic_sample, segments):
    segments[1]["iscrowd"] = 1

    mapped = panoptic_mapper(48)({**panoptic_sample, "segments_info": segments})

    expected = torch.zeros(48, 48, dtype=torch.bool)
    expected[:30, 21:40] = True
    assert torch.equal(mapped["valid"], expected)
    assert mapped["image_size"] == (30, 40)


def test_panoptic_sample_with_labels_has_both(panoptic_sample, save, labels):
    panoptic_sample["sem_seg_file_name"] = save("labels.png", labels)

    mapped = panoptic_mapper(64, num_classes=3)(panoptic_sample)

    assert "sem_seg_file_name" not in mapped
    assert np.array_equal(mapped["sem_seg"][:30, :40].numpy(), labels)
    assert (mapped["sem_seg"][30:] == 255).all()
    assert mapped["instances"].image_size == (64, 64)
    assert not mapped["instances"].gt_masks[:, 30:].any()


def test_cropped_segment_stays_as_an_empty_mask(panoptic_sample):
    mapped = panoptic_mapper(augmentations=[T.CropTransform(0, 0, 10, 10)])(panoptic_sample)

    assert mapped["instances"].gt_classes.tolist() == [2, 0]
    assert mapped["instances"].gt_masks.sum((1, 2)).tolist() == [0, 100]


def test_panoptic_crop_by_area_needs_labels(panoptic_sample, save, labels):
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (10, 10), 0.75, 255)
    mapper = panoptic_mapper(augmentations=[crop])

    with pytest.raises(InputError, match=r"image.png has no sem_seg_file_name"):
        mapper(panoptic_sample)

    panoptic_sample["sem_seg_file_name"] = save("labels.png", labels)
    assert mapper(panoptic_sample)["image"].shape == (3, 10, 10)


def instance_mapper(size: int = -1, **keywords: object) -> MaskFormerInstanceDatasetMapper:
    keywords = {"augmentations": [], "image_format": "RGB", **keywords}
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
        *("ColorAugSSDTransform", "RandomFlip"),
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

    mapped = DETRPanopticDatasetMapper(crop_gen=None, tfm_gens=[], image_format="RGB")(
        panoptic_sample
    )

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


def test_evaluation_sample_is_detectron2s_without_labels(cfg, semantic_sample):
    cfg.INPUT.MIN_SIZE_TEST = 60
    sample = {**semantic_sample, "annotations": [], "image_id": 3}
    theirs = DatasetMapper(cfg, is_train=False)(sample)
    del theirs["sem_seg"]
    Path(semantic_sample["sem_seg_file_name"]).unlink()

    ours = EvaluationMapper(cfg)(sample)

    assert torch.equal(ours.pop("image"), theirs.pop("image"))
    assert ours == theirs


def test_training_mappers_train_only(semantic_sample):
    with pytest.raises(AssertionError, match="training only"):
        semantic_mapper(is_train=False)(semantic_sample)


@pytest.mark.parametrize("mapper", [semantic_mapper(), panoptic_mapper()])
def test_annotations_are_refused(semantic_sample, panoptic_sample, mapper):
    sample = {**semantic_sample, **panoptic_sample, "annotations": []}

    with pytest.raises(ValueError, match=r"image.png has annotations"):
        mapper(sample)


@pytest.mark.parametrize(
    ("mapper", "key"),
    [
        (semantic_mapper(), "sem_seg_file_name"),
        (panoptic_mapper(), "pan_seg_file_name"),
        (panoptic_mapper(), "segments_info"),
    ],
)
def test_missing_key_names_the_image(semantic_sample, panoptic_sample, mapper, key):
    sample = {**semantic_sample, **panoptic_sample}
    del sample[key]

    with pytest.raises(ValueError, match=rf"image.png has no {key}"):
        mapper(sample)


@pytest.mark.parametrize("kind", ["label", "panoptic"])
def test_label_file_of_another_size(semantic_sample, panoptic_sample, save, image, kind):
    mapper = semantic_mapper() if kind == "label" else panoptic_mapper()
    sample = semantic_sample if kind == "label" else panoptic_sample
    save("image.png", image[:20])

    with pytest.raises(InputError, match=r"(labels|panoptic).png is 40x30.*image.png is 40x20"):
        mapper(sample)


def test_bad_panoptic_ids_are_told_before_a_crop_hides_them(panoptic_sample):
    del panoptic_sample["segments_info"][0]
    mapper = panoptic_mapper(augmentations=[T.CropTransform(0, 0, 10, 10)])

    with pytest.raises(InputError, match=r"panoptic.png has segment ids 258"):
        mapper(panoptic_sample)


def test_configuration_without_a_training_set(cfg):
    cfg.DATASETS.TRAIN = ()

    with pytest.raises(InputError, match=r"DATASETS.TRAIN is empty"):
        MaskFormerSemanticDatasetMapper(cfg, True)


def test_configuration_of_a_set_without_ignore_label(cfg):
    cfg.DATASETS.TRAIN = ("set_without_ignore_label",)

    with pytest.raises(InputError, match=r"set_without_ignore_label.*no ignore_label"):
        MaskFormerSemanticDatasetMapper(cfg, True)
    MetadataCatalog.remove("set_without_ignore_label")


class MappedSamples(torch.utils.data.Dataset):
    """As Detectron2's loader calls a mapper: in a worker."""

    def __init__(self, samples: list[dict], mapper: object) -> None:
        self.samples, self.mapper = samples, mapper

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        return self.mapper(self.samples[index])


def error_of_a_worker(sample: dict, mapper: object) -> InputError:
    loader = DataLoader(MappedSamples([sample], mapper), batch_size=None, num_workers=1)
    with pytest.raises(InputError) as error:
        next(iter(loader))
    return error.value


def test_errors_cross_the_worker(semantic_sample, panoptic_sample, save, labels):
    told = InputError.sentence(error_of_a_worker(semantic_sample, semantic_mapper(num_classes=2)))
    label_file = semantic_sample["sem_seg_file_name"]
    assert told.startswith(f"label map {label_file} has ids 2, but the classes are 0 to 1")
    assert "\n" not in told

    panoptic_sample["segments_info"].pop()
    told = InputError.sentence(error_of_a_worker(panoptic_sample, panoptic_mapper()))
    assert told.startswith(f"panoptic map {panoptic_sample['pan_seg_file_name']} has segment ids 1")

    image_file = Path(semantic_sample["file_name"])
    image_file.write_bytes(image_file.read_bytes()[:500])
    told = InputError.sentence(error_of_a_worker(semantic_sample, semantic_mapper()))
    assert told.startswith(f"image {image_file} cannot be read")
    assert "\n" not in told


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


def test_real_camvid(cfg, datasets_root: Path, monkeypatch: pytest.MonkeyPatch):
    if not (datasets_root / "camvid").is_dir():
        pytest.skip("no CamVid")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets_root))
    row = SemanticSet(
        "camvid_sem_seg_val", "camvid/images/val", "camvid/annotations/val", "camvid_11", 11
    )
    samples = row.load()
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    mapper = MaskFormerSemanticDatasetMapper(cfg, True)

    assert len(samples) == 101
    for sample in samples[::25]:
        mapped = mapper(sample)
        present = mapped["sem_seg"].unique().tolist()
        assert mapped["instances"].gt_classes.tolist() == [i for i in present if i != 11]
        assert len(present) > 5
        assert min(mapped["image"].shape[1:]) in (24, 36)
