"""FLOPs against counts by hand, and a rate that they cannot exceed."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import matrix_rate
from benchmarks.matrix_rate import model_flops


def test_flops_of_a_convolution_and_its_gradient():
    layer, images = nn.Conv2d(3, 8, 3, padding=1), torch.randn(2, 3, 10, 12)
    forward = 2 * (2 * 8 * 10 * 12) * (3 * 3 * 3)
    assert model_flops(lambda: layer(images)) == forward
    # No gradient of the images is asked for.
    assert model_flops(lambda: layer(images).sum().backward()) == 2 * forward


def test_attention_and_compiled_parts_count():
    query = torch.randn(2, 4, 5, 8)
    attention = 2 * (2 * 2 * 4 * 5 * 5 * 8)
    assert model_flops(lambda: F.scaled_dot_product_attention(query, query, query)) == attention
    compiled = torch.compile(lambda x: x @ x.mT)
    assert model_flops(lambda: compiled(query)) == attention // 2


def test_the_rate_is_the_best_of_five(monkeypatch):
    times = iter([0.5, 0.25, 2.0, 0.5, 0.5])
    monkeypatch.setattr(matrix_rate, "seconds", lambda work: (work(), next(times))[1])
    with FlopCounterMode(display=False) as counter:
        rate = matrix_rate.matrix_rate(torch.float32, torch.device("cpu"))
    assert rate == counter.get_total_flops() / 5 / 0.25
    assert next(times, None) is None
