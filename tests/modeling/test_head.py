"""The head, and checkpoints of every layout that its parts have had."""

import logging

import pytest
import torch
from torch import nn

from mask_former.modeling.head import MaskFormerHead
from mask_former.modeling.mask_decoder import TransformerMaskDecoder
from mask_former.modeling.pixel_decoder import BasePixelDecoder, TransformerEncoderPixelDecoder
from mask_former.structures import Padding

CHANNELS = {"res4": 4, "res5": 6}


def make_head(encoder=False, in_feature="res5", seed=0):
    torch.manual_seed(seed)
    kind = TransformerEncoderPixelDecoder if encoder else BasePixelDecoder
    decoder = TransformerMaskDecoder(
        in_channels=32 if in_feature == "transformer_encoder" else CHANNELS[in_feature],
        num_classes=3,
        num_queries=5,
        hidden_dim=32,
        mask_dim=7,
        decoder_layers=2,
        dropout=0.0,
    )
    return MaskFormerHead(
        pixel_decoder=kind(CHANNELS, conv_dim=32, mask_dim=7),
        mask_decoder=decoder,
        transformer_in_feature=in_feature,
    ).eval()


class Model(nn.Module):
    """Something with a head, under the name that all checkpoints use."""

    def __init__(self, seed=0):
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.sem_seg_head = make_head(encoder=True, seed=seed)


def features():
    return {"res4": torch.randn(2, 4, 6, 8), "res5": torch.randn(2, 6, 3, 4)}


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("in_feature", ["res4", "res5", "transformer_encoder"])
def test_the_queries_look_at_the_named_feature(encoder, in_feature):
    head, given = make_head(encoder, in_feature), features()
    if in_feature == "transformer_encoder" and not encoder:
        with pytest.raises(ValueError, match="BasePixelDecoder has no transformer encoder"):
            head(given)
        return
    pixel_embed, encoded = head.pixel_decoder(given)
    feature = encoded if in_feature == "transformer_encoder" else given[in_feature]
    prediction = head(given)
    expected = head.predictor(feature, pixel_embed)
    for ours, other in zip(prediction, expected, strict=True):
        assert torch.equal(ours, other)
    assert prediction.pixel_embed.shape == (2, 7, 6, 8)


@pytest.mark.parametrize(
    ("encoder", "in_feature"),
    [(False, "res4"), (False, "res5"), (True, "res4"), (True, "transformer_encoder")],
)
@torch.no_grad()
def test_released_features_change_nothing(encoder, in_feature):
    head, given = make_head(encoder, in_feature), features()
    expected = head(given, embed=False)
    assert list(given) == ["res4", "res5"]
    for found, other in zip(head(given, embed=False, release=True), expected, strict=True):
        assert torch.equal(found, other)
    assert list(given) == ["res5"]


PADDING = Padding([(24, 32), (15, 9)], (24, 32))


@pytest.mark.parametrize("encoder", [False, True])
def test_padding_reaches_the_decoders(encoder):
    in_feature = "transformer_encoder" if encoder else "res4"
    head, given = make_head(encoder, in_feature), features()
    prediction = head(given, PADDING)
    pixels = head.pixel_decoder(given, PADDING) if encoder else head.pixel_decoder(given)
    feature = pixels.encoded if encoder else given["res4"]
    expected = head.predictor(feature, pixels.pixel_embed, PADDING)
    for ours, other in zip(prediction, expected, strict=True):
        assert torch.equal(ours, other)
    without = head(given)
    assert torch.allclose(prediction.class_logits[:, 0], without.class_logits[:, 0], atol=1e-5)
    assert not torch.allclose(prediction.class_logits[:, 1], without.class_logits[:, 1], atol=1e-3)


def test_other_projects_parts_need_not_know_of_padding_or_release():
    class Pixels(nn.Module):
        def forward_features(self, features):
            return features["res4"], None

    class Queries(nn.Module):
        def forward(self, feature, pixel_embed):
            return feature, pixel_embed

    head, given = make_head(), features()
    head.pixel_decoder, head.predictor = Pixels(), Queries()
    feature, pixel_embed = head(given, PADDING, release=True)
    assert feature is given["res5"]
    assert pixel_embed is given["res4"]


def version_1(state):
    """The layout of the model zoo: the pixel decoder's keys directly below the head."""
    return {k.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): v for k, v in state.items()}


def wrapped(state):
    return {f"module.{key}": value for key, value in state.items()}


LAYOUTS = {
    "version 2 with metadata": lambda state: state,
    "version 2 without metadata": dict,
    "version 1": version_1,
    "version 1 without the backbone": lambda state: {
        k: v for k, v in version_1(state).items() if "backbone" not in k
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoints_of_every_layout_load(layout):
    source, model = Model(seed=1), Model(seed=2)
    result = model.load_state_dict(LAYOUTS[layout](source.state_dict()), strict=False)
    assert [key for key in result.missing_keys if "backbone" not in key] == []
    assert result.unexpected_keys == []
    for key, value in source.sem_seg_head.state_dict().items():
        assert torch.equal(model.sem_seg_head.state_dict()[key], value), key


@pytest.mark.parametrize("layout", ["version 2 without metadata", "version 1"])
def test_wrapped_models_load(layout):
    source = Model(seed=1)
    module = nn.ModuleDict({"module": Model(seed=2)})  # keys as of DistributedDataParallel
    result = module.load_state_dict(wrapped(LAYOUTS[layout](source.state_dict())))
    assert result.missing_keys == []
    key = "module.sem_seg_head.pixel_decoder.layer_2.weight"
    assert torch.equal(module.state_dict()[key], source.sem_seg_head.pixel_decoder.layer_2.weight)


def test_the_head_alone_loads():
    state = make_head(seed=1).state_dict()
    old = {key.removeprefix("pixel_decoder."): value for key, value in state.items()}
    assert make_head(seed=2).load_state_dict(old).missing_keys == []


def test_renaming_is_told_once_and_only_where_it_happens(caplog):
    caplog.set_level(logging.INFO)
    state = Model().state_dict()
    Model().load_state_dict(state)
    Model().load_state_dict({"backbone.weight": state["backbone.weight"]}, strict=False)
    assert caplog.messages == []
    Model().load_state_dict(version_1(state))
    assert len(caplog.messages) == 1
    renamed = sum("pixel_decoder" in key for key in state)
    assert f"version 1: {renamed} keys of the pixel decoder renamed" in caplog.messages[0]


def test_a_key_that_nobody_knows_is_reported():
    state = dict(Model().state_dict()) | {"sem_seg_head.surplus": torch.zeros(1)}
    result = Model().load_state_dict(state, strict=False)
    assert result.unexpected_keys == ["sem_seg_head.pixel_decoder.surplus"]


def test_version_2_is_recorded():
    assert Model().state_dict()._metadata["sem_seg_head"]["version"] == 2
