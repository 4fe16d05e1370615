"""The head, and checkpoints of every layout that its parts have had."""

import logging
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from mask_former.modeling.head import MaskFormerHead
from mask_former.modeling.mask_decoder import TransformerMaskDecoder
from mask_former.modeling.pixel_decoder import (
    BasePixelDecoder,
    PixelDecoderOutput,
    TransformerEncoderPixelDecoder,
)
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


def assert_same(found, expected):
    """Equal class logits and embeddings, whatever is still to come."""
    assert torch.equal(found.class_logits, expected.class_logits)
    assert torch.equal(found.mask_embed, expected.mask_embed)
    assert torch.equal(found.pixel_embed, expected.pixel_embed)


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
    assert_same(prediction, head.predictor(feature, pixel_embed))
    assert prediction.pixel_embed.shape == (2, 7, 6, 8)


@torch.no_grad()
def test_evaluation_leaves_the_last_convolution_to_the_prediction():
    head, given = make_head(), features()
    lean, plain = head(given), head.train()(given)
    assert lean.projection.weight is head.pixel_decoder.mask_features.weight
    assert lean.pixel_features.shape == (2, 32, 6, 8)
    assert plain.projection is None
    assert_same(lean, plain)
    torch.testing.assert_close(lean.mask_logits(), plain.mask_logits())


class Looking(TransformerMaskDecoder):
    """One that looks at the embeddings, as other projects' subclasses do."""

    def forward(self, feature, pixel_embed):
        self.seen = pixel_embed
        return super().forward(feature, pixel_embed)


class Doubled(BasePixelDecoder):
    """With the signature that Detectron2's projects know, and a step of its own."""

    def forward_features(self, features):
        pixel_embed, encoded = super().forward_features(features)
        return 2 * pixel_embed, encoded


class Doubling(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Tripled(nn.Sequential):
    def forward(self, x):
        return 3 * super().forward(x)


def scaled(self, x):
    return 2 * nn.Conv2d.forward(self, x)


def mend(head, kind):
    """Replaces a part, or gives it what a shortcut would not see."""
    decoder = head.pixel_decoder
    if kind == "predictor":
        head.predictor.__class__ = Looking
    elif kind == "decoder":
        decoder.__class__ = Doubled
    elif kind == "reflect":
        decoder.mask_features.padding_mode = "reflect"
        decoder.mask_features._reversed_padding_repeated_twice = [1, 1, 1, 1]
    elif kind == "hook":
        decoder.mask_features.register_forward_hook(lambda _, __, output: 3 * output)
    elif kind == "hook of the decoder":
        decoder.register_forward_hook(lambda _, __, output: (output[0] + 1, output[1]))
    elif kind == "sequential":
        decoder.mask_features = nn.Sequential(decoder.mask_features, nn.Tanh())
    elif kind == "patched":
        plain = decoder.mask_features.forward
        decoder.mask_features.forward = lambda x: plain(x) + 1
    elif kind == "backward hook":
        decoder.mask_features.register_full_backward_hook(lambda *_: None)
    elif kind == "weight norm":
        torch.nn.utils.weight_norm(decoder.mask_features)
        decoder.mask_features.weight_g.data *= 2
    elif kind == "parametrization":
        parametrize.register_parametrization(decoder.mask_features, "weight", Doubling())
    elif kind == "pruned":
        prune.l1_unstructured(decoder.mask_features, "weight", 0.5)
    elif kind == "compiled":
        decoder.mask_features = torch.compile(Tripled(decoder.mask_features), backend="eager")
    elif kind == "partial":
        plain = decoder.forward
        decoder.forward = partial(
            lambda f, x, p=None: PixelDecoderOutput(2 * f(x, p)[0], None), plain
        )
    elif kind == "inner convolution":
        plain = decoder.mask_features._conv_forward
        decoder.mask_features._conv_forward = lambda *a: 2 * plain(*a)
    elif kind == "convolution of another class":
        decoder.mask_features.__class__ = type("Scaled", (nn.Conv2d,), {"forward": scaled})
    elif kind == "dilated":
        decoder.mask_features = nn.Conv2d(32, 7, 3, padding=2, dilation=2)
    elif kind == "without bias":
        decoder.mask_features = nn.Conv2d(32, 7, 1, bias=False)


KINDS = """predictor, decoder, reflect, hook, hook of the decoder, sequential, patched, dilated,
without bias, weight norm, parametrization, pruned, compiled, partial, inner convolution,
convolution of another class, backward hook"""


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("kind", re.split(r",\s+", KINDS))
@torch.no_grad()
def test_other_parts_get_the_plain_way(kind):
    """Evaluation gives what training gives, which takes no shortcut."""
    head, given = make_head(), features()
    before = head(given)
    mend(head, kind)
    found, expected = head.eval()(given), head.train()(given)
    assert found.projection is None
    assert_same(found, expected)
    assert torch.equal(found.mask_logits(), expected.mask_logits())
    if kind == "predictor":
        assert torch.equal(head.predictor.seen, found.pixel_embed)
    elif kind != "backward hook":
        assert (found.mask_logits() - before.mask_logits()).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [nn.Conv2d, BasePixelDecoder, TransformerMaskDecoder])
@torch.no_grad()
def test_patched_classes_get_the_plain_way(kind, monkeypatch):
    head, given = make_head(), features()
    plain = kind.forward

    def patched(self, *args):
        output = plain(self, *args)
        if kind is nn.Conv2d:
            return 2 * output
        return output._replace(**{output._fields[0]: 2 * output[0]})

    monkeypatch.setattr(kind, "forward", patched)
    found, expected = head.eval()(given), head.train()(given)
    assert found.projection is None
    assert_same(found, expected)


@torch.no_grad()
def test_hooks_may_keep_what_they_see():
    """Nothing is changed in place behind their back."""
    head, given, kept = make_head(), features(), []
    for name in ("adapter_1", "layer_1.norm", "layer_2.norm", "layer_2"):
        module = head.pixel_decoder.get_submodule(name)
        module.register_forward_hook(lambda _, __, output: kept.append((output, output.clone())))
    head(given)
    assert len(kept) == 4
    assert all(torch.equal(output, then) for output, then in kept)


PADDING = Padding([(24, 32), (15, 9)], (24, 32))


@pytest.mark.parametrize("encoder", [False, True])
def test_padding_reaches_the_decoders(encoder):
    in_feature = "transformer_encoder" if encoder else "res4"
    head, given = make_head(encoder, in_feature), features()
    prediction = head(given, PADDING)
    pixels = head.pixel_decoder(given, PADDING)
    feature = pixels.encoded if encoder else given["res4"]
    assert_same(prediction, head.predictor(feature, pixels.pixel_embed, PADDING))
    without = head(given)
    assert torch.allclose(prediction.class_logits[:, 0], without.class_logits[:, 0], atol=1e-5)
    assert not torch.allclose(prediction.class_logits[:, 1], without.class_logits[:, 1], atol=1e-3)


class Wrapped(nn.Module):
    """As those that share a model among processes: it takes anything and passes it on."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_padding_reaches_a_wrapped_decoder():
    head, given = make_head(in_feature="res4"), features()
    expected = head(given, PADDING)
    head.predictor = Wrapped(head.predictor)
    found = head(given, PADDING)
    assert found.projection is None
    torch.testing.assert_close(found.mask_logits(), expected.mask_logits())
    assert (found.mask_logits() - head(given).mask_logits()).abs().max() > 1e-3


def test_other_projects_parts_need_not_know_of_padding():
    class Pixels(nn.Module):
        def forward_features(self, features):
            return features["res4"], None

    class Queries(nn.Module):
        def forward(self, feature, pixel_embed):
            return feature, pixel_embed

    head, given = make_head(), features()
    head.pixel_decoder, head.predictor = Pixels(), Queries()
    feature, pixel_embed = head(given, PADDING)
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
