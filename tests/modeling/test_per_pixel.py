"""The per-pixel baselines: scores, losses pixel by pixel, names."""

import math

import pytest
import torch
import torch.nn.functional as F

from mask_former.modeling.mask_decoder import TransformerMaskDecoder
from mask_former.modeling.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead
from mask_former.modeling.pixel_decoder import BasePixelDecoder, TransformerEncoderPixelDecoder

CHANNELS = {"res4": 4, "res5": 6}
CLASSES, IGNORE = 3, 255


def features(size=(6, 8)):
    torch.manual_seed(1)
    return {"res4": torch.randn(2, 4, *size), "res5": torch.randn(2, 6, 3, 4)}


def baseline(seed=0, **options):
    torch.manual_seed(seed)
    return PerPixelBaselineHead(
        pixel_decoder=BasePixelDecoder(CHANNELS, conv_dim=32, mask_dim=7),
        num_classes=CLASSES,
        mask_dim=7,
        **options,
    )


def plus(seed=0, in_feature="res5", deep_supervision=True, **options):
    torch.manual_seed(seed)
    encoder = in_feature == "transformer_encoder"
    kind = TransformerEncoderPixelDecoder if encoder else BasePixelDecoder
    return PerPixelBaselinePlusHead(
        pixel_decoder=kind(CHANNELS, conv_dim=32, mask_dim=7),
        mask_decoder=TransformerMaskDecoder(
            in_channels=32 if encoder else CHANNELS[in_feature],
            num_classes=None,
            num_queries=CLASSES,
            hidden_dim=32,
            mask_dim=7,
            decoder_layers=3,
            dropout=0.0,
            deep_supervision=deep_supervision,
        ),
        transformer_in_feature=in_feature,
        **options,
    )


HEADS = pytest.mark.parametrize("make", [baseline, plus])


def slow_loss(logits, targets):
    """The mean of -log softmax over the pixels that are not ignored, a pixel at a time."""
    logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    losses = []
    for image, target in zip(logits, targets, strict=True):
        for i, row in enumerate(target.tolist()):
            for j, label in enumerate(row):
                if label != IGNORE:
                    scores = image[:, i, j].tolist()
                    losses.append(math.log(sum(map(math.exp, scores))) - scores[label])
    return sum(losses) / len(losses)


@HEADS
@torch.no_grad()
def test_evaluation(make):
    head, given = make().eval(), features()
    logits, losses = head(given, torch.zeros(2, 24, 32, dtype=torch.int64))
    assert logits.shape == (2, CLASSES, 24, 32)
    assert losses == {}
    assert logits.min() < 0  # logits, not probabilities


@torch.no_grad()
def test_baseline_classifies_every_embedding():
    head, given = baseline().eval(), features()
    pixel_embed = head.pixel_decoder(given).pixel_embed
    scores = torch.einsum("kd,bdhw->bkhw", head.predictor.weight[:, :, 0, 0], pixel_embed)
    scores = scores + head.predictor.bias[:, None, None]
    expected = F.interpolate(scores, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(given)[0], expected)


@pytest.mark.parametrize("in_feature", ["res4", "res5", "transformer_encoder"])
@torch.no_grad()
def test_plus_has_a_query_for_each_class(in_feature):
    head, given = plus(in_feature=in_feature).eval(), features()
    pixel_embed, encoded = head.pixel_decoder(given)
    feature = encoded if encoded is not None else given[in_feature]
    query = head.predictor.mask_embed(head.predictor.decode(feature))[-1]
    scores = torch.stack(
        [(query[:, k, :, None, None] * pixel_embed).sum(1) for k in range(CLASSES)]
    )
    expected = F.interpolate(
        scores.transpose(0, 1), scale_factor=4, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(head(given)[0], expected)


@HEADS
@pytest.mark.parametrize("size", [(24, 32), (22, 29)])
def test_losses(make, size):
    """A target that is no multiple of 4 is compared with as much of the scores as it covers."""
    head, given = make(loss_weight=2.0), features()
    g = torch.Generator().manual_seed(0)
    targets = torch.randint(0, CLASSES, (2, *size), generator=g)
    targets[torch.rand(targets.shape, generator=g) < 0.3] = IGNORE
    nothing, losses = head(given, targets)
    assert nothing is None
    layers = head._logits(given)
    names = ["loss_sem_seg_0", "loss_sem_seg_1", "loss_sem_seg"][3 - len(layers) :]
    assert losses.keys() == set(names)
    for name, logits in zip(names, layers, strict=True):
        assert float(losses[name].detach()) == pytest.approx(
            2 * slow_loss(logits, targets), rel=1e-4
        )


def test_plus_without_deep_supervision():
    targets = torch.zeros(2, 24, 32, dtype=torch.int64)
    assert plus(deep_supervision=False)(features(), targets)[1].keys() == {"loss_sem_seg"}


@HEADS
def test_ignored_pixels_count_for_nothing(make):
    head, given = make(), features()
    _, losses = head(given, torch.full((2, 24, 32), IGNORE))
    total = sum(losses.values())
    assert float(total.detach()) == 0
    total.backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@HEADS
def test_every_parameter_takes_a_gradient(make):
    head = make()
    sum(head(features(), torch.zeros(2, 24, 32, dtype=torch.int64))[1].values()).backward()
    without = {name for name, p in head.named_parameters() if not p.grad.any()}
    # The first layer's self-attention is of queries that are all zero.
    first = "predictor.transformer.decoder.layers.0"
    names = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "norm1.weight")
    assert without == ({f"{first}.{name}" for name in names} if make is plus else set())


@HEADS
def test_half_precision_scores_give_a_loss_in_float32(make):
    head = make().bfloat16()
    given = {name: x.bfloat16() for name, x in features().items()}
    losses = head(given, torch.zeros(2, 24, 32, dtype=torch.int64))[1]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


@HEADS
def test_training_needs_targets(make):
    with pytest.raises(ValueError, match="sem_seg"):
        make()(features())


@HEADS
def test_checkpoints_of_version_1_load(make):
    state = make(seed=1).state_dict()
    old = {key.removeprefix("pixel_decoder."): value for key, value in state.items()}
    head = make(seed=2)
    assert head.load_state_dict(old).missing_keys == []
    assert all(torch.equal(head.state_dict()[key], value) for key, value in state.items())
    assert state._metadata[""]["version"] == 2


def test_names():
    assert list(baseline().state_dict())[-2:] == ["predictor.weight", "predictor.bias"]
    assert baseline().predictor.weight.shape == (CLASSES, 7, 1, 1)
    assert not any("class_embed" in key for key in plus().state_dict())


def test_the_classifier_starts_as_he_normal_of_its_outputs():
    torch.manual_seed(0)
    head = PerPixelBaselineHead(
        pixel_decoder=BasePixelDecoder(CHANNELS, conv_dim=32), num_classes=150
    )
    weight = head.predictor.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / 150) ** 0.5, rel=0.05)
    assert (head.predictor.bias == 0).all()
