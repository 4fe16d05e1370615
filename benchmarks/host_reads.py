"""How often the host waits for a number from the device; on a CPU, as if that were a device."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def host_reads(work: Callable[[], object]) -> int:
    """How often the host waits to read from the device; compiled parts run eagerly meanwhile."""
    with (
        torch.compiler.set_stance("force_eager"),
        warnings.catch_warnings(record=True) as caught,
        HostReads() as reads,
    ):
        if not torch.cuda.is_available():
            work()
            return reads.count
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


class HostReads(TorchFunctionMode):
    """Counts the calls whose result the host needs to go on, or whose result's size."""

    READS = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__")
    SIZES = ("nonzero", "masked_select", "unique", "bincount", "argwhere")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Counts the call, then makes it."""
        name = getattr(func, "__name__", "")
        if name == "__getitem__":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.count += any(isinstance(i, Tensor) and i.dtype == torch.bool for i in index)
        self.count += name in self.READS + self.SIZES
        return func(*args, **(kwargs or {}))
