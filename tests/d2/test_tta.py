"""Test-time augmentation against a mean written out by hand, with a model that is a formula."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.errors import InputError
from mask_former.d2.tta import SemanticSegmentorWithTTA


class Formula(nn.Module):
    """Two score maps that a flip and a resize change: the image's red, and a ramp along x."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batch):
        self.seen.append([tuple(x["image"].shape[-2:]) for x in batch])
        return [{"sem_seg": scores(x["image"], x["height"], x["width"])} for x in batch]


def scores(image, height, width):
    red = F.interpolate(image[None, :1].float(), (height, width), mode="bilinear")[0, 0]
    return torch.stack([red, torch.arange(width).float().expand(height, width)])


def make_cfg(**keys):
    cfg = get_mask_former_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.TEST.AUG.MIN_SIZES = [8, 16]
    cfg.TEST.AUG.MAX_SIZE = 100
    cfg.TEST.AUG.update(keys)
    return cfg


@pytest.fixture
def image_file(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (24, 32, 3), np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    return str(path), torch.from_numpy(pixels).permute(2, 0, 1)


def resized(image, short):
    """As Detectron2's resize does it: Pillow, bilinear."""
    width = round(image.shape[2] * short / image.shape[1])
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, short), Image.BILINEAR)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def expected_mean(image, height, width, flip):
    total = []
    for short in (8, 16):
        variant = resized(image, short)
        total.append(scores(variant, height, width))
        if flip:
            total.append(scores(variant.flip(-1), height, width).flip(-1))
    return torch.stack(total).mean(0)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("flip", [True, False])
def test_mean_over_scales_and_flips(image_file, flip, batch_size):
    _, image = image_file
    model = Formula()
    tta = SemanticSegmentorWithTTA(make_cfg(FLIP=flip), model, batch_size=batch_size)
    (result,) = tta([{"image": image, "height": 20, "width": 30}])
    torch.testing.assert_close(result["sem_seg"], expected_mean(image, 20, 30, flip))
    sizes = [size for batch in model.seen for size in batch]
    assert sorted(set(sizes)) == [(8, 11), (16, 21)]
    assert max(map(len, model.seen)) <= batch_size


def test_scales_resample_the_loaders_image_or_the_file(image_file):
    """Published numbers depend on the first; the second keeps the detail of the file."""
    file_name, image = image_file
    small = resized(image, 12)
    sample = {"file_name": file_name, "image": small, "height": 24, "width": 32}
    twice = SemanticSegmentorWithTTA(make_cfg(FLIP=False), Formula())([sample])
    once = SemanticSegmentorWithTTA(make_cfg(FLIP=False, RESIZE_TWICE=False), Formula())([sample])
    torch.testing.assert_close(twice[0]["sem_seg"], expected_mean(small, 24, 32, False))
    torch.testing.assert_close(once[0]["sem_seg"], expected_mean(image, 24, 32, False))


def test_a_file_name_alone_is_enough(image_file):
    file_name, image = image_file
    tta = SemanticSegmentorWithTTA(make_cfg(FLIP=False), Formula())
    (result,) = tta([{"file_name": file_name}])
    torch.testing.assert_close(result["sem_seg"], expected_mean(image, 24, 32, False))


def test_an_image_alone_is_enough(image_file):
    _, image = image_file
    (result,) = SemanticSegmentorWithTTA(make_cfg(FLIP=False), Formula())([{"image": image}])
    assert result["sem_seg"].shape == (2, 24, 32)


def test_nothing_to_read_is_an_error(tmp_path):
    tta = SemanticSegmentorWithTTA(make_cfg(), Formula())
    with pytest.raises(InputError, match="file_name"):
        tta([{"height": 2, "width": 2}])
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        tta([{"file_name": str(tmp_path / "gone.png")}])


def test_no_sizes_is_an_error(image_file):
    with pytest.raises(InputError, match="MIN_SIZES is empty"):
        SemanticSegmentorWithTTA(make_cfg(MIN_SIZES=[]), Formula())([{"image": image_file[1]}])
