"""Golden numbers: read, and compared with."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

# What tests/golden keeps of the arrays of a whole model, by the end of the name: some queries and
# some classes. The others stand there whole.
KEPT = {
    "pred_logits": np.s_[:, ::5],
    "pred_masks": np.s_[:, ::5],
    "head_logits_s4": np.s_[:, ::10],
    "_s8": np.s_[::5],
}
# Differences that are allowed, in parts of an array's largest value.
FLOAT64 = 1e-6
FLOAT32 = 1e-4


def read_json(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration's values by dotted key, in JSON's types."""
    values: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, dict):
            values.update(flat(value, f"{prefix}{name}."))
        else:
            values[prefix + name] = json.loads(json.dumps(value))
    return values


def thinned(name: str, values: Any) -> Any:
    """The part of a whole model's array that tests/golden keeps."""
    for ending, part in KEPT.items():
        if name.endswith(ending):
            return values[part]
    return values


def assert_close(ours: Tensor, golden: np.ndarray, what: str, relative: float) -> None:
    """max|a-b| <= relative * max|b|"""
    assert tuple(ours.shape) == golden.shape, what
    difference = np.abs(ours.detach().double().numpy() - golden.astype(np.float64)).max(initial=0)
    assert difference <= relative * np.abs(golden).max(initial=0), f"{what}: {difference}"


def three_keys(segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The keys that the original gives; ours adds score and area."""
    return [{k: s[k] for k in ("id", "isthing", "category_id")} for s in segments]
