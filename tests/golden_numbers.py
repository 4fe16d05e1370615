"""Golden numbers: read, and compared with."""

import json

import numpy as np
from torch import Tensor


def read_json(path):
    return json.loads(path.read_text())


def assert_close(ours: Tensor, golden: np.ndarray, what: str, relative: float = 1e-5) -> None:
    """max|a-b| <= relative * max|b|"""
    assert tuple(ours.shape) == golden.shape, what
    difference = np.abs(ours.detach().double().numpy() - golden.astype(np.float64)).max(initial=0)
    assert difference <= relative * np.abs(golden).max(initial=0), f"{what}: {difference}"


def three_keys(segments):
    """The keys that the original gives; ours adds score and area."""
    return [{k: s[k] for k in ("id", "isthing", "category_id")} for s in segments]
