"""Modules whose every parameter counts."""

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def scrambled() -> Callable[[nn.Module], nn.Module]:
    """Makes all parameters of a module random, so that biases and norms count."""

    def scramble(module: nn.Module) -> nn.Module:
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
        return module.double().eval()

    return scramble
