"""One transfer from the device for several results.

To read from an accelerator is to wait for all its work. So a result that depends on numbers from
there is made in two steps, and the numbers of several results are read together.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pending(NamedTuple):
    """A result, but for what needs numbers that only the device knows."""

    table: Tensor
    """[n, m]; the numbers, float64: integers up to 2^53 are exact."""
    finish: Callable[[list[list[float]]], Any]
    """From the n rows of the table to the result."""


@torch.no_grad()
def read_once(*pending: Pending) -> list[Any]:
    """The results, in their order."""
    if not pending:
        return []
    numbers = iter(torch.cat([each.table.flatten() for each in pending]).tolist())
    results = []
    for table, finish in pending:
        rows = [list(islice(numbers, table.shape[1])) for _ in range(len(table))]
        results.append(finish(rows))
    return results
