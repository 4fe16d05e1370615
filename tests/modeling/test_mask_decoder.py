"""The mask decoder: shapes, layers, what joins them, and its options."""

import pytest
import torch

from mask_former.modeling.mask_decoder import TransformerMaskDecoder
from mask_former.structures import Padding

OPTIONS = {
    "in_channels": 6,
    "num_classes": 3,
    "num_queries": 5,
    "hidden_dim": 8,
    "mask_dim": 7,
    "num_heads": 2,
    "feedforward": 16,
    "dropout": 0.0,
    "decoder_layers": 3,
}


def make(**options):
    torch.manual_seed(0)
    return TransformerMaskDecoder(**OPTIONS | options)


@pytest.mark.parametrize("size", [(4, 6), (1, 1), (5, 3)])
@pytest.mark.parametrize("supervised", [True, False])
def test_shapes(size, supervised):
    decoder = make(deep_supervision=supervised)
    pixel_embed = torch.randn(2, 7, 9, 11)
    prediction = decoder(torch.randn(2, 6, *size), pixel_embed)
    layers = 3 if supervised else 1
    assert prediction.class_logits.shape == (layers, 2, 5, 4)
    assert prediction.mask_embed.shape == (layers, 2, 5, 7)
    assert prediction.pixel_embed is pixel_embed
    assert prediction.mask_logits().shape == (2, 5, 9, 11)


def test_without_deep_supervision_the_last_layer_is_the_same():
    feature, pixel_embed = torch.randn(2, 6, 3, 4), torch.randn(2, 7, 9, 11)
    of_all = make()(feature, pixel_embed).last()
    alone = make(deep_supervision=False)(feature, pixel_embed)
    for a, b in zip(of_all, alone, strict=True):
        torch.testing.assert_close(a, b)


def test_class_and_mask_come_from_the_same_queries():
    decoder, feature = make(), torch.randn(2, 6, 3, 4)
    seen = []
    decoder.class_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    prediction = decoder(feature, torch.randn(2, 7, 3, 4))
    (queries,) = seen
    torch.testing.assert_close(prediction.mask_embed, decoder.mask_embed(queries))
    torch.testing.assert_close(prediction.mask_embed, decoder.mask_embed(decoder.decode(feature)))


def test_mask_logits_by_hand():
    prediction = make()(torch.randn(1, 6, 2, 2), torch.randn(1, 7, 3, 4))
    expected = sum(
        prediction.mask_embed[1, 0, 2, d] * prediction.pixel_embed[0, d, 1, 3] for d in range(7)
    )
    torch.testing.assert_close(prediction.mask_logits(1)[0, 2, 1, 3], expected)


def test_queries_see_positions():
    """A feature that is the same everywhere, but turned, would else give the same."""
    decoder = make()
    feature = torch.randn(1, 6, 2, 3)
    turned = decoder(feature.flip(3), torch.zeros(1, 7, 2, 2)).class_logits
    assert (turned - decoder(feature, torch.zeros(1, 7, 2, 2)).class_logits).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("in_channels", "enforce", "projected"), [(6, False, True), (8, False, False), (8, True, True)]
)
def test_input_projection(in_channels, enforce, projected):
    decoder = make(in_channels=in_channels, enforce_input_projection=enforce)
    assert ("input_proj.weight" in decoder.state_dict()) == projected


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layers_and_pre_norm(pre_norm):
    keys = make(encoder_layers=2, pre_norm=pre_norm).state_dict()
    assert "transformer.encoder.layers.1.linear1.weight" in keys
    assert ("transformer.encoder.norm.weight" in keys) == pre_norm
    assert "transformer.decoder.norm.weight" in keys


def test_order_of_names():
    names = [name for name, _ in make().named_children()]
    assert names == ["transformer", "query_embed", "input_proj", "class_embed", "mask_embed"]


def test_without_classes_it_gives_mask_embeddings_alone():
    decoder = make(num_classes=None)
    assert not any("class_embed" in key for key in decoder.state_dict())
    assert decoder.mask_embed(decoder.decode(torch.randn(2, 6, 3, 4))).shape == (3, 2, 5, 7)
    with pytest.raises(ValueError, match="without num_classes"):
        decoder(torch.randn(2, 6, 3, 4), torch.randn(2, 7, 3, 4))


def test_every_parameter_takes_a_gradient():
    decoder = make(encoder_layers=1)
    prediction = decoder(torch.randn(2, 6, 3, 4), torch.randn(2, 7, 3, 4))
    (prediction.class_logits.square().sum() + prediction.mask_logits().square().sum()).backward()
    without = [name for name, p in decoder.named_parameters() if not p.grad.any()]
    # The first layer's self-attention is of queries that are all zero.
    first = "transformer.decoder.layers.0"
    names = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "norm1.weight")
    assert set(without) == {f"{first}.{name}" for name in names}


@pytest.mark.parametrize("options", [{}, {"encoder_layers": 1, "pre_norm": True}])
@pytest.mark.parametrize("value", [5.0, 1e30])
def test_a_padded_image_gives_what_its_cells_give_alone(options, value):
    decoder, feature = make(**options), torch.randn(2, 6, 3, 4)
    feature[1, :, 2:] = feature[1, :, :, 3:] = value
    pixel_embed = torch.randn(2, 7, 6, 8)
    found = decoder(feature, pixel_embed, Padding([(96, 128), (40, 65)], (96, 128)))
    whole = decoder(feature[:1], pixel_embed[:1])
    alone = decoder(feature[1:, :, :2, :3], pixel_embed[1:])
    for i, expected in enumerate((whole, alone)):
        close = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(found.class_logits[:, i], expected.class_logits[:, 0], **close)
        torch.testing.assert_close(found.mask_embed[:, i], expected.mask_embed[:, 0], **close)
    assert found.pixel_embed is pixel_embed
