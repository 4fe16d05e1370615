"""Things and segments drawn by hand, and what the script of the experiments says of them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "experiments" / "missed_things.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("missed_things", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def columns(first, last):
    """[10, 20] bool; whole columns."""
    mask = np.zeros((10, 20), dtype=bool)
    mask[:, first:last] = True
    return mask


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([], "missed"),
        ([columns(0, 8)], "found"),  # 8 of the 8 columns
        ([columns(0, 5)], "found"),  # an IoU of 5/8
        ([columns(0, 4)], "missed"),  # of 4/8: not above a half
        ([columns(0, 16)], "merged"),  # wholly in a segment twice as large
        ([columns(0, 4), columns(4, 8)], "missed"),  # split in two
        ([columns(6, 20)], "missed"),  # little of it
        ([columns(0, 16), columns(0, 7)], "found"),
    ],
)
def test_fates(script, segments, expected):
    assert script.fate(columns(0, 8), segments) == expected


def test_what_is_touched(script):
    """Within two pixels; its own class counts before another, and stuff not at all."""
    ids = np.zeros((9, 20), np.int64)
    ids[3:6, 2:5], ids[3:6, 6:9], ids[3:6, 12:15], ids[0, :] = 1, 2, 3, 7
    classes = {1: 4, 2: 4, 3: 4}
    own, other, nothing = script.KINDS[2], script.KINDS[1], script.KINDS[0]
    assert [script.touched(ids, thing, classes) for thing in (1, 2, 3)] == [own, own, nothing]
    classes[2] = 5
    assert [script.touched(ids, thing, classes) for thing in (1, 2, 3)] == [other, other, nothing]
