"""What the mappers of label files return, from configurations and from keywords."""

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image
from torch.utils.data import DataLoader

from mask_former.d2.data.datasets import own_sets
from mask_former.d2.data.mappers import (
    MaskFormerPanopticDatasetMapper,
    MaskFormerSemanticDatasetMapper,
)
from mask_former.d2.errors import InputError

TRAINING = {"image", "instances", "image_size", "valid"}
KEYWORDS = {"augmentations": [], "image_format": "RGB", "ignore_label": 255, "valid_mask": True}


def semantic_mapper(size: int = -1, **keywords: object) -> MaskFormerSemanticDatasetMapper:
    return MaskFormerSemanticDatasetMapper(size_divisibility=size, **{**KEYWORDS, **keywords})


def panoptic_mapper(size: int = -1, **keywords: object) -> MaskFormerPanopticDatasetMapper:
    return MaskFormerPanopticDatasetMapper(size_divisibility=size, **{**KEYWORDS, **keywords})


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


def test_training_mappers_train_only(semantic_sample):
    with pytest.raises(AssertionError, match="training only"):
        semantic_mapper(is_train=False)(semantic_sample)


def test_bad_panoptic_ids_are_told_before_a_crop_hides_them(panoptic_sample):
    del panoptic_sample["segments_info"][0]
    mapper = panoptic_mapper(augmentations=[T.CropTransform(0, 0, 10, 10)])

    with pytest.raises(InputError, match=r"panoptic.png has segment ids 258"):
        mapper(panoptic_sample)


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


def test_real_camvid(cfg, datasets_root: Path, monkeypatch: pytest.MonkeyPatch):
    if not (datasets_root / "camvid").is_dir():
        pytest.skip("no CamVid")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets_root))
    samples = next(row for row in own_sets() if row.name == "camvid_sem_seg_val").load()
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
