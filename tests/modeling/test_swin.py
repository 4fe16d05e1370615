"""The shapes, features and initial values of Swin, and what its options change."""

import pytest
import torch
from torch import nn

from mask_former.modeling.swin import SwinTransformer
from mask_former.modeling.window_attention import WindowAttention

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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_lie_as_the_convolutions_do(layout):
    model = make().to(memory_format=layout)
    for feature in model(torch.randn(2, 3, 32, 48)).values():
        assert feature.is_contiguous(memory_format=layout)


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


def test_rates_of_stochastic_depth_grow_over_all_blocks():
    model = make(depths=(2, 3), drop_path=0.4)
    rates = [block.drop_path.rate for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_initial_values():
    """As the paper of Swin means them, which the original left out."""
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
