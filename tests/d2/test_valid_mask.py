"""VALID_MASK: padded and ignored pixels reach no loss, and padded cells no result."""

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image

from mask_former.d2.data.mappers import MaskFormerSemanticDatasetMapper
from tests.d2.tiny_models import FIXED, MASK_FORMER, WITH_ENCODER, image, make_model, sample

VALID = {f"{MASK_FORMER}.VALID_MASK": True}
POINTS = {f"{MASK_FORMER}.TRAIN_NUM_POINTS": 60}


def padded_sample():
    """64 x 96 pixels, of which a mapper has added those beyond 50 x 70; a corner is ignored."""
    x = sample(64, 96, [0, 2])
    x["valid"] = torch.zeros(64, 96, dtype=torch.bool)
    x["valid"][:50, :70] = True
    x["valid"][:20, :30] = False
    x["instances"].gt_masks &= x["valid"]
    return {**x, "image_size": (50, 70)}


def losses_of(model, batch):
    torch.manual_seed(0)
    return {name: float(loss) for name, loss in model(batch).items()}


def changed(x, where, seed=0):
    """The sample with random masks in some pixels."""
    instances = x["instances"]
    g = torch.Generator().manual_seed(seed)
    random = torch.rand(instances.gt_masks.shape, generator=g) < 0.5
    masks = torch.where(where, random, instances.gt_masks)
    classes = instances.gt_classes
    return {**x, "instances": Instances(masks.shape[-2:], gt_classes=classes, gt_masks=masks)}


@pytest.mark.parametrize("options", [{}, POINTS, FIXED, WITH_ENCODER])
@torch.no_grad()
def test_what_targets_say_of_padded_and_ignored_pixels_changes_no_loss(options):
    model = make_model(options | VALID).train()
    # The image beside it is larger, so that the batch adds padding.
    x, beside = padded_sample(), sample(80, 100, [1, 0])
    expected = losses_of(model, [x, beside])
    for seed in range(3):
        assert losses_of(model, [changed(x, ~x["valid"], seed), beside]) == expected
    beyond = torch.ones(64, 96, dtype=torch.bool)
    beyond[:50, :70] = False
    assert losses_of(model, [{**x, "valid": x["valid"] | beyond}, beside]) == expected
    assert losses_of(model, [changed(x, x["valid"]), beside]) != expected
    assert losses_of(make_model(options).train(), [x, beside]) != expected


@pytest.mark.parametrize("options", [{}, POINTS, WITH_ENCODER])
@torch.no_grad()
def test_nothing_changes_where_nothing_is_padded_or_ignored(options):
    batch = [sample(64, 96, [0, 2]), sample(64, 96, [1])]
    expected = losses_of(make_model(options).train(), batch)
    found = losses_of(make_model(options | VALID).train(), batch)
    assert found == pytest.approx(expected, rel=1e-5)
    (result,) = make_model(options).eval()(batch[:1])
    (valid,) = make_model(options | VALID).eval()(batch[:1])
    assert torch.equal(result["sem_seg"], valid["sem_seg"])


@torch.no_grad()
def test_valid_pixels_are_off_by_default():
    model, seen = make_model().train(), []
    model.sem_seg_head.register_forward_pre_hook(lambda _, args: seen.append(args))
    model.criterion.register_forward_pre_hook(lambda _, args: seen.append(args))
    x = padded_sample()
    losses = losses_of(model, [x])
    (features,), (_, (target,)) = seen
    assert isinstance(features, dict)
    assert target.valid is target.size is None
    del x["valid"], x["image_size"]
    assert losses_of(model, [x]) == losses
    assert make_model(VALID).state_dict().keys() == model.state_dict().keys()


def test_the_padding_of_a_mapper_is_known_to_the_model(tmp_path):
    """The side that INPUT.SIZE_DIVISIBILITY names, then the batch, then what is not labelled."""
    labels = np.full((40, 30), 1, np.uint8)
    labels[:10] = 255
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    mapper = MaskFormerSemanticDatasetMapper(
        augmentations=[],
        image_format="RGB",
        ignore_label=255,
        size_divisibility=48,
        valid_mask=True,
    )
    names = {"file_name": "image.png", "sem_seg_file_name": "labels.png"}
    x = mapper({key: str(tmp_path / name) for key, name in names.items()})
    model, seen = make_model(VALID).train(), []
    model.sem_seg_head.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    model.criterion.register_forward_pre_hook(lambda _, args: seen.append(args[1]))

    losses = model([x, sample(64, 40, [0])])

    padding, (target, other) = seen
    assert padding == ([(40, 30), (64, 40)], (64, 64))
    assert target.size == (40, 30)
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[10:40, :30] = True
    assert torch.equal(target.valid, expected)
    assert other.size == (64, 40)
    assert other.valid.sum() == 64 * 40
    assert all(loss.isfinite() for loss in losses.values())


@torch.no_grad()
def test_padded_cells_of_the_pixel_embeddings_reach_no_result():
    model = make_model(VALID).eval()
    # A convolution would see them, so none may be still to come.
    model.sem_seg_head.pixel_decoder.mask_features.register_forward_hook(lambda *_: None)
    batch = [image(40, 50), image(64, 90, height=30, width=45)]
    expected = model(batch)

    def disturb(_, args, prediction):
        pixel_embed = prediction.pixel_embed.clone()
        assert pixel_embed.shape[-2:] == (16, 24)
        pixel_embed[0, :, 10:] = pixel_embed[0, :, :, 13:] = torch.nan
        pixel_embed[1, :, :, 23:] = torch.nan
        return prediction._replace(pixel_features=pixel_embed)

    model.sem_seg_head.register_forward_hook(disturb)
    for found, result in zip(model(batch), expected, strict=True):
        assert torch.equal(found["sem_seg"], result["sem_seg"])


@torch.no_grad()
def test_padded_cells_of_the_features_reach_no_query():
    model, seen = make_model(VALID).eval(), []
    batch = [image(40, 50), image(64, 90)]

    def disturb(_, args, features):
        assert features["res5"].shape[-2:] == (2, 3)
        res5 = features["res5"].clone()
        res5[0, :, :, 2:] = 1e6
        return {**features, "res5": res5}

    model.sem_seg_head.register_forward_hook(lambda _, args, prediction: seen.append(prediction))
    model(batch)
    model.backbone.register_forward_hook(disturb)
    model(batch)
    expected, found = seen
    assert torch.equal(found.class_logits, expected.class_logits)
    assert torch.equal(found.mask_embed, expected.mask_embed)
    # Convolutions do see them.
    assert not torch.equal(found.pixel_embed[0, :, :10, :13], expected.pixel_embed[0, :, :10, :13])
