"""How time and memory grow with one size at a time, of the cases of other modules.

The exponent of an axis is the slope of a line through the logarithms: 1 is linear, and the number
of pixels grows with the square of the size.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from benchmarks.measure import Row

AXES = {"size": (128, 256, 512), "classes": (37, 150, 600), "queries": (50, 100, 200)}
WORKS = ("criterion", "postprocessing/semantic", "postprocessing/panoptic")
CASES = tuple(f"{work}/{axis}={x}" for work in WORKS for axis in AXES for x in AXES[axis])


def exponents(rows: Sequence[Row]) -> list[Row]:
    """A row for each work, side, axis of which several values were measured, and figure."""
    lines = defaultdict(list)
    for row in rows:
        path, _, value = row["case"].partition("=")
        for figure in ("ms", "live MiB") if value else ():
            lines[path, row["side"], figure].append((int(value), row[figure]))
    return [
        {"case": path, "side": side, "of": figure, "exponent": _slope(*np.log(line).T)}
        for (path, side, figure), line in lines.items()
        if len(line) > 1
    ]


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0])
