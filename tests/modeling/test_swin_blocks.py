"""The blocks of a stage against a reference that works cell by cell, and stochastic depth."""

import pytest
import torch

from mask_former.modeling.swin import DropPath, SwinTransformer
from mask_former.modeling.window_attention import shift_mask


def slow_attention(attn, x, window, shift):
    """Shifted windows as Swin's paper has them, a query cell at a time; x: [H, W, C], normed."""
    height, width, channels = x.shape
    padded_height, padded_width = -(-height // window) * window, -(-width // window) * window
    padded = x.new_zeros(padded_height, padded_width, channels)
    padded[:height, :width] = x
    heads = attn.num_heads
    qkv = (padded @ attn.qkv.weight.T + attn.qkv.bias).view(
        padded_height, padded_width, 3, heads, channels // heads
    )
    q, k, v = qkv.unbind(2)

    def place(i, j):
        """Window and region of a cell, after the cyclic shift."""
        i, j = (i - shift) % padded_height, (j - shift) % padded_width
        regions = []
        for at, length in ((i, padded_height), (j, padded_width)):
            regions.append(0 if at < length - window else 1 if at < length - shift else 2)
        return (i // window, j // window), tuple(regions), (i % window, j % window)

    cells = [(i, j) for i in range(padded_height) for j in range(padded_width)]
    out = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            of_window, region, (row, column) = place(i, j)
            near = [cell for cell in cells if place(*cell)[0] == of_window]
            logits = []
            for cell in near:
                _, other, (other_row, other_column) = place(*cell)
                offset = (row - other_row + window - 1) * (2 * window - 1)
                offset += column - other_column + window - 1
                logit = (q[i, j] * k[cell]).sum(-1) * (channels // heads) ** -0.5
                logit = logit + attn.relative_position_bias_table[offset]
                logits.append(logit - (100.0 if shift and other != region else 0.0))
            weights = torch.stack(logits).softmax(0)  # [cells, heads]
            values = torch.stack([v[cell] for cell in near])
            out[i, j] = (weights[..., None] * values).sum(0).flatten()
    return out @ attn.proj.weight.T + attn.proj.bias


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (3, 2), (4, 9)])
@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_block_against_the_slow_reference(size, index, scrambled):
    """Blocks of even index do not shift; sizes need not be multiples of the window."""
    torch.manual_seed(0)
    options = {"embed_dim": 8, "num_heads": (2, 4), "window": 4, "out_features": ("res2", "res3")}
    model = SwinTransformer(depths=(2, 2), drop_path=0.0, **options)
    block = scrambled(model.layers[0].blocks[index])
    assert block.shift == 2 * index
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    apart = shift_mask(*size, 4, x.device)
    expected = []
    for image in x:
        y = image + slow_attention(block.attn, block.norm1(image), 4, block.shift)
        hidden = block.norm2(y) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        expected.append(y + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    torch.testing.assert_close(block(x, apart), torch.stack(expected))


def test_stochastic_depth():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    dropped = drop(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped.flatten(1).std(dim=1) == 0).all()  # a sample is dropped as a whole
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)
