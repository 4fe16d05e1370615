"""Pixel decoders: any sizes, nearest upsampling by brute force, names, the encoder."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mask_former.modeling.layers import group_norm
from mask_former.modeling.pixel_decoder import (
    BasePixelDecoder,
    PerPixelHeadAsPixelDecoder,
    TransformerEncoderPixelDecoder,
)
from mask_former.modeling.position_encoding import sine_position_encoding
from mask_former.structures import Padding

CHANNELS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}
SIZES = [
    [(16, 24), (8, 12), (4, 6), (2, 3)],
    [(13, 9), (7, 5), (4, 3), (2, 2)],
    [(9, 7), (9, 3), (2, 3), (1, 1)],  # by any factor
]


def features(sizes, batch=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(batch, channels, *size, generator=g)
        for (name, channels), size in zip(CHANNELS.items(), sizes, strict=True)
    }


def transformer_decoder(conv_dim=32, **options):
    options = {"num_heads": 4, "feedforward": 16, "dropout": 0.0, "encoder_layers": 2} | options
    return TransformerEncoderPixelDecoder(CHANNELS, conv_dim=conv_dim, mask_dim=5, **options)


def block(x, conv, relu):
    x = group_norm(32)(F.conv2d(x, conv.weight, conv.bias, padding=conv.padding))
    return x.relu() if relu else x


def slow_nearest(x, size):
    """Target pixel i shows source pixel floor(i * source / target)."""
    out = x.new_empty(*x.shape[:2], *size)
    for row in range(size[0]):
        for column in range(size[1]):
            source = row * x.shape[2] // size[0], column * x.shape[3] // size[1]
            out[:, :, row, column] = x[:, :, source[0], source[1]]
    return out


def slow_top_down(decoder, given, coarsest):
    y = block(coarsest, decoder.layer_4, relu=True)
    for adapter, layer, name in (
        (decoder.adapter_3, decoder.layer_3, "res4"),
        (decoder.adapter_2, decoder.layer_2, "res3"),
        (decoder.adapter_1, decoder.layer_1, "res2"),
    ):
        lateral = block(given[name], adapter, relu=False)
        y = block(lateral + slow_nearest(y, lateral.shape[-2:]), layer, relu=True)
    return decoder.mask_features(y)


@pytest.mark.parametrize("sizes", SIZES)
@torch.no_grad()
def test_base_pixel_decoder(sizes):
    decoder, given = BasePixelDecoder(CHANNELS, conv_dim=32, mask_dim=5), features(sizes)
    pixel_embed, encoded = decoder(given | {"unknown": torch.zeros(1)})
    assert encoded is None
    assert pixel_embed.shape == (2, 5, *sizes[0])
    expected = slow_top_down(decoder, given, given["res5"])
    torch.testing.assert_close(pixel_embed, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(decoder.forward_features(given).pixel_embed, pixel_embed)


@pytest.mark.parametrize("sizes", SIZES)
@torch.no_grad()
def test_transformer_encoder_pixel_decoder(sizes):
    decoder, given = transformer_decoder().eval(), features(sizes)
    pixel_embed, encoded = decoder.forward_features(given)
    height, width = sizes[-1]
    x = decoder.input_proj(given["res5"])
    pos = sine_position_encoding(height, width, 32)
    tokens = decoder.transformer["encoder"](x.flatten(2).transpose(1, 2), pos.flatten(1).T[None])
    for i in range(height):
        for j in range(width):  # row by row
            torch.testing.assert_close(encoded[:, :, i, j], tokens[:, i * width + j])
    expected = slow_top_down(decoder, given, encoded)
    torch.testing.assert_close(pixel_embed, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_encoder_sees_positions():
    """Without them, a turned map would give the same values, turned."""
    decoder, given = transformer_decoder().eval(), features(SIZES[0], batch=1)
    turned = decoder({**given, "res5": given["res5"].flip(3)}).encoded.flip(3)
    assert (turned - decoder(given).encoded).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [BasePixelDecoder, TransformerEncoderPixelDecoder])
@torch.no_grad()
def test_features_may_come_as_a_sequence(kind):
    """As from timm, with a sequence of channels; the same weights give the same embeddings."""
    options = {"conv_dim": 32, "mask_dim": 5}
    named = kind(CHANNELS, **options).eval()
    listed = kind(list(CHANNELS.values()), **options).eval()
    listed.load_state_dict(named.state_dict())
    given = features(SIZES[0])
    found = listed([given[name] for name in CHANNELS])
    assert torch.equal(found.pixel_embed, named(given).pixel_embed)


def test_features_in_another_order_or_number_are_told():
    decoder = BasePixelDecoder([6, 4], conv_dim=32)
    coarse, fine = torch.zeros(1, 6, 4, 4), torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"finest first, got .*\[\[4, 4\], \[8, 8\]\]"):
        decoder([coarse, fine])
    with pytest.raises(ValueError, match="has 2 features, got 1"):
        decoder([coarse])


def test_order_of_names():
    base = ["adapter_1", "layer_1", "adapter_2", "layer_2", "adapter_3", "layer_3"]
    decoder = BasePixelDecoder(CHANNELS, conv_dim=32)
    assert [n for n, _ in decoder.named_children()] == [*base, "layer_4", "mask_features"]
    names = [n for n, _ in transformer_decoder().named_children()]
    assert names == [*base, "mask_features", "input_proj", "transformer", "layer_4"]
    assert transformer_decoder().layer_4.weight.shape == (32, 32, 3, 3)


def test_pre_norm_ends_in_a_norm():
    keys = transformer_decoder(pre_norm=True).state_dict()
    assert "transformer.encoder.norm.weight" in keys
    assert "transformer.encoder.norm.weight" not in transformer_decoder().state_dict()


@pytest.mark.parametrize("make", [BasePixelDecoder, TransformerEncoderPixelDecoder])
def test_one_feature(make):
    decoder = make({"res4": 3}, conv_dim=32, mask_dim=5)
    assert decoder({"res4": torch.randn(1, 3, 6, 5)}).pixel_embed.shape == (1, 5, 6, 5)
    assert not any(name.startswith("adapter") for name, _ in decoder.named_children())


def test_no_feature_is_refused():
    with pytest.raises(ValueError, match="in_channels is empty"):
        BasePixelDecoder({})


def test_without_norm_convolutions_have_a_bias():
    keys = BasePixelDecoder(CHANNELS, conv_dim=6, norm=None).state_dict()
    assert "adapter_1.bias" in keys
    assert not any("norm" in key for key in keys)


def test_every_parameter_takes_a_gradient():
    for decoder in (BasePixelDecoder(CHANNELS, conv_dim=32), transformer_decoder()):
        decoder(features(SIZES[1])).pixel_embed.square().sum().backward()
        without = [name for name, p in decoder.named_parameters() if not p.grad.any()]
        assert without == []


def test_any_per_pixel_head_serves():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 5, 1)

        def layers(self, given):
            return self.conv(given["res2"])

    decoder, given = PerPixelHeadAsPixelDecoder(Head()), features(SIZES[0])
    pixel_embed, encoded = decoder.forward_features(given)
    assert encoded is None
    assert torch.equal(pixel_embed, decoder.head.conv(given["res2"]))
    assert list(decoder.state_dict()) == ["head.conv.weight", "head.conv.bias"]


@pytest.mark.parametrize("value", [5.0, 1e30])
@torch.no_grad()
def test_the_encoder_keeps_padding_out_of_attention(value):
    decoder, given = transformer_decoder().eval(), features([(16, 24), (8, 12), (4, 6), (4, 6)])
    given["res5"][1, :, 2:] = given["res5"][1, :, :, 5:] = value
    padding = Padding([(32, 48), (9, 40)], (32, 48))
    encoded = decoder.forward_features(given, padding).encoded
    assert torch.equal(decoder(given, padding).encoded, encoded)
    whole = decoder({name: x[:1] for name, x in given.items()}).encoded
    alone = decoder(
        {name: x[1:] for name, x in given.items()} | {"res5": given["res5"][1:, :, :2, :5]}
    )
    torch.testing.assert_close(encoded[:1], whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoded[1:, :, :2, :5], alone.encoded, atol=1e-5, rtol=1e-5)
