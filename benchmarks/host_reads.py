"""How often the host waits for a number from the device; on a CPU, as if that were a device."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


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
    """Counts the calls whose result the host needs to go on, or whose result's size.

    On the host is what ``cpu()`` has read, what is made of Python's numbers, and what is computed
    from these alone.
    """

    READS = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__")
    SIZES = ("nonzero", "masked_select", "unique", "bincount", "argwhere")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._on_host = WeakIdKeyDictionary()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Counts the call, then makes it."""
        name = getattr(func, "__name__", "")
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_host = bool(given) and all(x in self._on_host for x in given)
        if not on_host:
            if name == "__getitem__":
                index = args[1] if isinstance(args[1], tuple) else (args[1],)
                self.count += any(isinstance(i, Tensor) and i.dtype == torch.bool for i in index)
            self.count += name in self.READS + self.SIZES
        result = func(*args, **(kwargs or {}))
        if on_host or name in ("cpu", "tensor"):
            self._on_host |= {x: True for x in tree_leaves(result) if isinstance(x, Tensor)}
        return result
