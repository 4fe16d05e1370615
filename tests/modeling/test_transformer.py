"""Encoder and decoder against a reference that is written head by head, in float64."""

import pytest
import torch

from mask_former.modeling.position_encoding import image_tokens
from mask_former.modeling.transformer import (
    LayerOptions,
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from mask_former.structures import Padding

CHANNELS, HEADS, WIDTH = 8, 2, 12


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scrambled(module):
    """All parameters random, biases and norms too."""
    module = module.double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=i))
    return module


def layer_norm(x, norm):
    x = x - x.mean(-1, keepdim=True)
    return x / ((x**2).mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def attention(attn, query, key, value):
    """softmax(q k / sqrt(d)) v for each image and head on its own; the weights are fused."""
    weights, biases = attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    d = CHANNELS // HEADS
    images = []
    for image in range(len(q)):
        heads = []
        for head in range(HEADS):
            at = slice(head * d, (head + 1) * d)
            logits = q[image, :, at] @ k[image, :, at].T / d**0.5
            exp = logits.exp()
            heads.append(exp / exp.sum(1, keepdim=True) @ v[image, :, at])
        images.append(torch.cat(heads, dim=1))
    return torch.stack(images) @ attn.out_proj.weight.T + attn.out_proj.bias


def ffn(layer, x):
    hidden = (x @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0)
    return hidden @ layer.linear2.weight.T + layer.linear2.bias


def slow_encoder_layer(layer, x, pos, pre_norm):
    if pre_norm:
        y = layer_norm(x, layer.norm1)
        x = x + attention(layer.self_attn, y + pos, y + pos, y)
        return x + ffn(layer, layer_norm(x, layer.norm2))
    x = layer_norm(x + attention(layer.self_attn, x + pos, x + pos, x), layer.norm1)
    return layer_norm(x + ffn(layer, x), layer.norm2)


def slow_decoder_layer(layer, x, query_pos, memory, pos, pre_norm):
    key = memory + pos
    if pre_norm:
        y = layer_norm(x, layer.norm1)
        x = x + attention(layer.self_attn, y + query_pos, y + query_pos, y)
        y = layer_norm(x, layer.norm2)
        x = x + attention(layer.multihead_attn, y + query_pos, key, memory)
        return x + ffn(layer, layer_norm(x, layer.norm3))
    x = x + attention(layer.self_attn, x + query_pos, x + query_pos, x)
    x = layer_norm(x, layer.norm1)
    x = layer_norm(x + attention(layer.multihead_attn, x + query_pos, key, memory), layer.norm2)
    return layer_norm(x + ffn(layer, x), layer.norm3)


def stack(kind, layers, pre_norm, dropout=0.0):
    return kind(layers, LayerOptions(CHANNELS, HEADS, WIDTH, dropout, pre_norm))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layer(pre_norm):
    layer = scrambled(TransformerEncoderLayer(LayerOptions(CHANNELS, HEADS, WIDTH, 0.3, pre_norm)))
    x, pos = normal(2, 5, CHANNELS, seed=100), normal(1, 5, CHANNELS, seed=101)
    torch.testing.assert_close(layer(x, pos), slow_encoder_layer(layer, x, pos, pre_norm))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_decoder_layer(pre_norm):
    layer = scrambled(TransformerDecoderLayer(LayerOptions(CHANNELS, HEADS, WIDTH, 0.3, pre_norm)))
    x, query_pos = normal(2, 3, CHANNELS, seed=100), normal(1, 3, CHANNELS, seed=101)
    memory, pos = normal(2, 6, CHANNELS, seed=102), normal(1, 6, CHANNELS, seed=103)
    torch.testing.assert_close(
        layer(x, query_pos, memory, pos),
        slow_decoder_layer(layer, x, query_pos, memory, pos, pre_norm),
    )


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_transformer(layers, pre_norm):
    """The encoder ends in a norm with pre-norm alone, also without layers; the decoder always."""
    encoder = scrambled(stack(TransformerEncoder, layers, pre_norm))
    decoder = scrambled(stack(TransformerDecoder, 3, pre_norm))
    x, pos = normal(2, 5, CHANNELS, seed=100), normal(1, 5, CHANNELS, seed=101)
    query_pos = normal(1, 4, CHANNELS, seed=102)
    found = Transformer(encoder, decoder)(x, pos, query_pos)

    memory = x
    for layer in encoder.layers:
        memory = slow_encoder_layer(layer, memory, pos, pre_norm)
    if pre_norm:
        memory = layer_norm(memory, encoder.norm)
    queries, expected = torch.zeros(2, 4, CHANNELS, dtype=torch.float64), []
    for layer in decoder.layers:
        queries = slow_decoder_layer(layer, queries, query_pos, memory, pos, pre_norm)
        expected.append(layer_norm(queries, decoder.norm))
    torch.testing.assert_close(found, torch.stack(expected))


def test_order_of_queries_and_of_image_tokens():
    decoder = scrambled(stack(TransformerDecoder, 2, pre_norm=False))
    query_pos, memory, pos = (normal(1, n, CHANNELS, seed=n) for n in (4, 6, 7))
    pos = pos[:, :6]
    found = decoder(query_pos, memory, pos)
    turned = decoder(query_pos.flip(1), memory.flip(1), pos.flip(1))
    torch.testing.assert_close(turned, found.flip(2))


def test_dropout_is_random_in_training_alone():
    encoder = stack(TransformerEncoder, 1, pre_norm=False, dropout=0.5)
    x, pos = torch.randn(1, 5, CHANNELS), torch.randn(1, 5, CHANNELS)
    assert not torch.equal(encoder(x, pos), encoder(x, pos))
    encoder.eval()
    assert torch.equal(encoder(x, pos), encoder(x, pos))


def test_initial_values():
    encoder = stack(TransformerEncoder, 2, pre_norm=True)
    first, second = encoder.layers
    bound = (6 / (4 * CHANNELS)) ** 0.5  # of the fused matrix [3 C, C]
    assert bound * 0.8 < first.self_attn.in_proj_weight.abs().max() <= bound
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    assert (first.self_attn.in_proj_bias == 0).all()
    assert (encoder.norm.weight == 1).all()


# Maps of 3 x 4 cells, 8 pixels each.
PADDING = Padding([(24, 32), (17, 9), (8, 30)], (24, 32))
CELLS = [(3, 4), (3, 2), (1, 4)]


def padded_maps(value):
    """[3, C, 3, 4], with a value in every cell that is padding alone."""
    maps = normal(3, CHANNELS, 3, 4, seed=100)
    for x, (rows, columns) in zip(maps, CELLS, strict=True):
        x[:, rows:] = x[:, :, columns:] = value
    return maps


@pytest.mark.parametrize("value", [0.0, 7.0, -1e200, torch.inf, torch.nan])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_padding_takes_part_in_no_attention(pre_norm, value):
    """Whatever it holds, each image gives what its own cells give alone."""
    encoder = scrambled(stack(TransformerEncoder, 2, pre_norm))
    decoder = scrambled(stack(TransformerDecoder, 2, pre_norm))
    maps, query_pos = padded_maps(value), normal(1, 4, CHANNELS, seed=101)
    x, pos, padded = image_tokens(maps, PADDING)
    encoded = encoder(x, pos, padded).transpose(1, 2).view_as(maps)
    queries = Transformer(encoder, decoder)(x, pos, query_pos, padded)
    undecoded = decoder(query_pos, x, pos, padded)
    for i, (rows, columns) in enumerate(CELLS):
        alone = maps[i : i + 1, :, :rows, :columns]
        x, pos, _ = image_tokens(alone)
        memory = encoder(x, pos)
        # Positions are float32 in both.
        close = {"atol": 1e-5, "rtol": 1e-5}
        found = image_tokens(encoded[i : i + 1, :, :rows, :columns]).x
        torch.testing.assert_close(found, memory, **close)
        expected = decoder(query_pos, memory, pos)
        torch.testing.assert_close(queries[:, i : i + 1], expected, **close)
        expected = decoder(query_pos, x, pos)
        torch.testing.assert_close(undecoded[:, i : i + 1], expected, **close)


def test_padding_gets_no_gradient():
    encoder, maps = stack(TransformerEncoder, 2, pre_norm=False), padded_maps(3.0).float()
    x, pos, padded = image_tokens(maps.requires_grad_(), PADDING)
    encoder(x, pos, padded)[~padded].square().sum().backward()
    assert maps.grad.isfinite().all()
    for grad, (rows, columns) in zip(maps.grad, CELLS, strict=True):
        assert (grad[:, :rows, :columns] != 0).any(0).all()
        assert not grad[:, rows:].any()
        assert not grad[:, :, columns:].any()
