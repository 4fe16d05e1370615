"""Attention is that of PyTorch's module, from the same parameters."""

import pytest
import torch
from torch import nn

from mask_former.modeling.transformer import Attention


@pytest.mark.parametrize("padded", [False, True])
def test_results_and_gradients_are_those_of_pytorchs_module(padded):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    nn.init.normal_(theirs.in_proj_bias)
    ours = Attention(12, 3).double()
    ours.load_state_dict(theirs.state_dict())
    query, key, value = (torch.randn(2, n, 12, dtype=torch.float64) for n in (4, 5, 5))
    mask = None
    if padded:
        mask = torch.tensor([[False, False, True, False, True], [False] * 5])
    found = ours(query, key, value, mask)
    expected = theirs(query, key, value, key_padding_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(found, expected)
    (found**2).sum().backward()
    (expected**2).sum().backward()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad)


def test_dropout_is_of_training_alone():
    torch.manual_seed(0)
    attention = Attention(8, 2, dropout=0.5)
    tokens = torch.randn(1, 6, 8)
    first, second = (attention(tokens, tokens, tokens) for _ in range(2))
    assert not torch.equal(first, second)
    attention.eval()
    first, second = (attention(tokens, tokens, tokens) for _ in range(2))
    assert torch.equal(first, second)
