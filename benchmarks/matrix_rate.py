"""How much of the rate at which a machine multiplies matrices a model reaches.

The FLOPs are the model's, those of the plain architecture, whoever computes it and however: to
leave some out is to reach a higher rate.
"""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import seconds


def model_flops(work: Callable[[], object]) -> int:
    """FLOPs of its convolutions and matrix products, attention included; two for a product."""
    # Compiled parts and fused kernels of attention would not be counted.
    with (
        torch.compiler.set_stance("force_eager"),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        work()
    return counter.get_total_flops()


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOPs a second of a large product of matrices, the best of five."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = torch.randn(2, side, side, device=device).to(dtype)
    best = min(seconds(lambda: left @ right) for _ in range(5))
    return 2 * side**3 / best
