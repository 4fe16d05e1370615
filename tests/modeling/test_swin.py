"""Swin against a reference that works cell by cell, values of the specification, and laws."""

import pytest
import torch
from torch import nn

from mask_former.modeling.swin import (
    DropPath,
    PatchEmbed,
    PatchMerging,
    SwinTransformer,
    WindowAttention,
    join_windows,
    relative_position_index,
    shift_mask,
    split_windows,
)

CPU = torch.device("cpu")
TINY = {
    "embed_dim": 8,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window": 4,
    "drop_path": 0.0,
    "out_features": ("res2", "res3"),
}


def make(seed=0, **options):
    torch.manual_seed(seed)
    return SwinTransformer(**TINY | options)


def scrambled(module):
    """All parameters random, so that biases and norms count."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
    return module.double().eval()


def slow_attention(attn, x, window, shift):
    """Spec 6.6, one query cell at a time; x: [H, W, C] after the norm."""
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
def test_block_against_the_slow_reference(size, index):
    """Blocks of even index do not shift; sizes need not be multiples of the window."""
    block = scrambled(make().layers[0].blocks[index])
    assert block.shift == 2 * index
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    apart = shift_mask(*size, 4, CPU)
    expected = []
    for image in x:
        y = image + slow_attention(block.attn, block.norm1(image), 4, block.shift)
        hidden = block.norm2(y) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        expected.append(y + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    torch.testing.assert_close(block(x, 4, apart), torch.stack(expected))


def test_relative_position_index_of_the_specification():
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_position_index(2).tolist() == expected


@pytest.mark.parametrize("size", [(4, 8), (7, 5), (3, 3)])
@pytest.mark.parametrize("window", [3, 4])
def test_shift_mask_by_regions(size, window):
    sides = [-(-length // window) * window for length in size]
    region = torch.zeros(*sides)
    slices = (slice(0, -window), slice(-window, -(window // 2)), slice(-(window // 2), None))
    for number, (rows, columns) in enumerate((r, c) for r in slices for c in slices):
        region[rows, columns] = number
    windows = []
    for top in range(0, sides[0], window):
        for left in range(0, sides[1], window):
            cells = region[top : top + window, left : left + window].flatten().tolist()
            windows.append([[a != b for b in cells] for a in cells])
    assert shift_mask(*size, window, CPU).tolist() == windows


def test_shift_masks_are_built_once_a_size(monkeypatch):
    shift_mask.cache_clear()
    model = make(depths=(4, 4)).eval()
    for _ in range(3):
        model(torch.randn(1, 3, 32, 32))
    assert shift_mask.cache_info().misses == 2  # one for each stage
    model(torch.randn(1, 3, 40, 32))
    assert shift_mask.cache_info().misses == 4


def test_a_mask_made_in_inference_serves_in_training():
    shift_mask.cache_clear()
    model = make()
    with torch.inference_mode():
        model(torch.randn(1, 3, 32, 32))
    model(torch.randn(1, 3, 32, 32))["res3"].sum().backward()
    assert model.layers[0].blocks[1].attn.qkv.weight.grad.isfinite().all()


def test_windows_split_and_join():
    x = torch.arange(2 * 6 * 4 * 3.0).view(2, 6, 4, 3)
    windows = split_windows(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    assert torch.equal(windows[1, 3].view(2, 2, 3), x[1, 2:4, 2:4])  # row-major
    assert torch.equal(join_windows(windows, 2, (6, 4)), x)


@torch.no_grad()
def test_patch_merging_by_hand():
    merge = scrambled(PatchMerging(2))
    x = torch.randn(1, 3, 5, 2, dtype=torch.float64)
    merged = merge(x)
    assert merged.shape == (1, 2, 3, 4)
    cell = torch.cat([x[0, 0, 2], x[0, 1, 2], x[0, 0, 3], x[0, 1, 3]])
    torch.testing.assert_close(merged[0, 0, 1], merge.reduction(merge.norm(cell)))
    zero = torch.zeros(2, dtype=torch.float64)
    corner = torch.cat([x[0, 2, 4], zero, zero, zero])  # padded below and to the right
    torch.testing.assert_close(merged[0, 1, 2], merge.reduction(merge.norm(corner)))


@torch.no_grad()
def test_patch_embedding_pads_below_and_to_the_right():
    embed = scrambled(PatchEmbed(4, 6, norm=True))
    image = torch.randn(1, 3, 6, 9, dtype=torch.float64)
    x = embed(image)
    assert x.shape == (1, 2, 3, 6)
    patch = torch.zeros(3, 4, 4, dtype=torch.float64)
    patch[:, :2, :1] = image[0, :, 4:, 8:]
    cell = torch.einsum("chw,ochw->o", patch, embed.proj.weight) + embed.proj.bias
    torch.testing.assert_close(x[0, 1, 2], embed.norm(cell))


@pytest.mark.parametrize("size", [(32, 32), (33, 45), (5, 3)])
def test_shapes(size):
    features = make()(torch.randn(2, 3, *size))
    height, width = (-(-side // 4) for side in size)
    assert features["res2"].shape == (2, 8, height, width)
    assert features["res3"].shape == (2, 16, -(-height // 2), -(-width // 2))
    assert all(x.is_contiguous() for x in features.values())


def test_train_and_eval_return_the_model():
    model = make()
    assert model.train() is model
    assert model.eval() is model
    assert not model.layers[0].blocks[0].training


@pytest.mark.parametrize(
    "given", [("res2",), ("res3",), ("res2", "res4"), ("res2", "res3", "res4")]
)
def test_subsets_of_features_leave_no_parameter_without_gradient(given):
    """What is not needed is not computed and asks for no gradient, but stays in the state dict."""
    options = {"depths": (2, 2, 2), "num_heads": (2, 2, 2)}
    whole = make(**options, out_features=("res2", "res3", "res4"))
    model = make(**options, out_features=given)
    assert list(model.state_dict()) == list(whole.state_dict())
    image = torch.randn(1, 3, 32, 32)
    features, of_whole = model(image), whole(image)
    assert list(features) == list(given)
    for name, feature in features.items():
        assert torch.equal(feature, of_whole[name])
    sum(x.square().sum() for x in features.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert model.norm0.weight.requires_grad == ("res2" in given)
    assert model.layers[2].blocks[0].attn.qkv.weight.requires_grad == ("res4" in given)


def test_recomputation_changes_nothing_but_memory():
    image = torch.randn(2, 3, 32, 32)
    gradients, features = [], []
    for recompute in (False, True):
        model = make(recompute=recompute)
        calls = []
        model.layers[0].blocks[1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        out = model(image)
        features.append(out["res3"])
        sum(x.square().sum() for x in out.values()).backward()
        gradients.append([p.grad for p in model.parameters()])
        assert len(calls) == 1 + recompute
        calls.clear()
        model.eval()(image)
        assert len(calls) == 1
    assert torch.equal(*features)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_stochastic_depth():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    dropped = drop(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped.flatten(1).std(dim=1) == 0).all()  # a sample is dropped as a whole
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


def test_rates_of_stochastic_depth_grow_over_all_blocks():
    model = make(depths=(2, 3), drop_path=0.4)
    rates = [block.drop_path.rate for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_initial_values():
    """As the paper of Swin means them; spec 6.6 on what the original did instead."""
    model = make(embed_dim=32, absolute_grid=8)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
            assert module.bias is None or (module.bias == 0).all()
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        if isinstance(module, WindowAttention):
            table = module.relative_position_bias_table.detach()
            assert float(table.std()) == pytest.approx(0.02, rel=0.3)
    assert float(model.absolute_pos_embed.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("size", [(32, 32), (20, 48)])
def test_absolute_positions_fit_any_size(size):
    model = make(absolute_grid=8)
    image = torch.zeros(1, 3, *size)
    before = model(image)["res2"]
    with torch.no_grad():
        model.absolute_pos_embed.mul_(-5)
    assert (model(image)["res2"] - before).abs().max() > 1e-3
    assert next(iter(model.state_dict())) == "absolute_pos_embed"


def test_qk_scale_and_bias():
    attention = make(qkv_bias=False, qk_scale=0.5).layers[0].blocks[0].attn
    assert attention.scale == 0.5
    assert attention.qkv.bias is None
    assert make(qk_scale=0).layers[0].blocks[0].attn.scale == 4**-0.5


def test_mixed_precision_stays_near():
    model, image = make().eval(), torch.randn(1, 3, 40, 56)
    expected = model(image)["res3"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(image)["res3"]
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_features": ("res2", "res7")}, "some of res2, res3, got .*res7"),
        ({"out_features": ()}, "some of res2, res3"),
        ({"num_heads": (2,)}, "2 stages, but 1"),
        ({"num_heads": (3, 4)}, "3 heads do not divide the 8 channels of res2"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
