"""Building blocks: shapes, names, initial values."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mask_former.modeling.layers import MLP, ConvNorm, group_norm, init_conv


def test_conv_norm_is_convolution_norm_relu():
    torch.manual_seed(0)
    block = ConvNorm(3, 32, 3, group_norm, relu=True).double()
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    x_padded = F.pad(x, (1, 1, 1, 1))
    expected = torch.zeros(2, 32, 5, 7, dtype=torch.float64)
    for row in range(5):
        for column in range(7):
            patch = x_padded[:, :, row : row + 3, column : column + 3]
            expected[:, :, row, column] = torch.einsum("bcij,ocij->bo", patch, block.weight)
    # With 32 groups of one channel each, every channel is normalised on its own.
    mean = expected.mean(dim=(2, 3), keepdim=True)
    var = expected.var(dim=(2, 3), keepdim=True, unbiased=False)
    expected = ((expected - mean) / (var + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("norm", [group_norm, nn.BatchNorm2d, None])
def test_conv_norm_has_the_right_gradient(norm):
    torch.manual_seed(0)
    block = ConvNorm(2, 32, 1, norm, relu=True).double()
    assert torch.autograd.gradcheck(block, torch.randn(2, 2, 2, 3).double().requires_grad_())


def test_conv_norm_without_relu_has_negative_values():
    block = ConvNorm(3, 32, 1, group_norm, relu=False)
    assert block(torch.randn(1, 3, 4, 4)).min() < 0


@pytest.mark.parametrize(
    ("norm", "keys"),
    [(group_norm, ["weight", "norm.weight", "norm.bias"]), (None, ["weight", "bias"])],
)
def test_conv_norm_has_a_norm_or_a_bias(norm, keys):
    assert list(ConvNorm(2, 32, 3, norm, relu=True).state_dict()) == keys


def test_convolutions_start_uniform_within_the_bound():
    conv = nn.Conv2d(16, 64, 3)
    init_conv(conv)
    bound = math.sqrt(3 / (16 * 9))
    weight = conv.weight.detach()
    assert weight.abs().max() <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert (conv.bias == 0).all()


def test_mlp_by_hand():
    mlp = MLP(1, 2, 1, num_layers=2)
    with torch.no_grad():
        mlp.layers[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        mlp.layers[0].bias.zero_()
        mlp.layers[1].weight.copy_(torch.tensor([[2.0, 3.0]]))
        mlp.layers[1].bias.fill_(-10.0)
    # relu(x), relu(-x) times 2 and 3, less 10; no ReLU at the end.
    torch.testing.assert_close(mlp(torch.tensor([[4.0], [-1.0]])), torch.tensor([[-2.0], [-7.0]]))


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_mlp_shapes(num_layers):
    mlp = MLP(3, 5, 7, num_layers)
    assert len(mlp.layers) == num_layers
    assert mlp(torch.zeros(2, 4, 3)).shape == (2, 4, 7)
