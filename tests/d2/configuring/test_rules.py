"""Rules: what passes, what does not, and how it is told."""

import math

import numpy as np
import pytest

from mask_former.d2.configuring import rules
from mask_former.d2.configuring.rules import (
    NAME,
    SWITCH,
    TEXT,
    above_zero,
    like,
    list_of,
    number,
    one_of,
    optional,
    whole,
)

NAN, INF = math.nan, math.inf
CASES = [
    (whole(), "a whole number", [0, -5, 2**62, np.int64(3)], [1.0, True, "1", None, 2**63]),
    (whole(0), "a whole number of 0 or more", [0, 7], [-1]),
    (whole(1, 5), "a whole number from 1 to 5", [1, 5], [0, 6, NAN]),
    (whole(most=9), "a whole number of 9 or less", [-99, 9], [10]),
    (number(), "a number", [0, -1.5, np.float32(2)], [NAN, INF, -INF, True, "1", None, []]),
    (number(0), "a number of 0 or more", [0, 0.5, 1e30], [-1e-9, INF]),
    (number(0, 1), "a number from 0 to 1", [0, 1, 1.0], [1.0001, -0.1, NAN]),
    (above_zero(), "a number above 0", [1e-9, INF], [0, -1, NAN]),
    (above_zero(2), "a number above 0 and up to 2", [2], [0, 2.1, INF]),
    (one_of("a", "b", "c"), "a, b or c", ["a", "c"], ["A", "", None, 1]),
    (one_of("", "BN"), "'' or BN", ["", "BN"], ["bn"]),
    (one_of(1, 2), "1 or 2", [1, 2], [True, 1.0, "1", 3]),
    (one_of(2), "2", [2], [1]),
    (like("one", "two"), "one, two, or a name of yours", ["one", "mine"], ["onne", "TWO", 1]),
    (list_of(SWITCH), "a list of at least one, each True or False", [[True], (False,)], [[], [1]]),
    (list_of(NAME, 0), "a list, each a name", [[], ["x"]], ["x", [""], [None]]),
    (list_of(whole(), 2, 2), "a list of 2, each a whole number", [(1, 2)], [[1], [1, 2, 3], 1]),
    (optional(SWITCH), "True or False, or None", [None, True], [0]),
    (TEXT, "text without control characters", ["", "a b/ü", "日本"], ["a\nb", "\0", "\ud800", 1]),
    (NAME, "a name", ["a"], ["", "  ", "a\tb"]),
]


@pytest.mark.parametrize(("rule", "allowed", "good", "bad"), CASES, ids=[c[1] for c in CASES])
def test_rules(rule, allowed, good, bad):
    assert rule.allowed == allowed
    assert [value for value in good if not rule.accepts(value)] == []
    assert [value for value in bad if rule.accepts(value)] == []


def test_refusals():
    refuse = one_of("ADAMW", "SGD").refusal
    assert refuse("K", "adamw") == "K is 'adamw'; give ADAMW or SGD; did you mean ADAMW?"
    assert refuse("K", 5) == "K is 5; give ADAMW or SGD"
    assert whole(1).refusal("K", "x" * 999).endswith("xxx...; give a whole number of 1 or more")
    assert rules.shown({"a": 1}) == "a section of 1 keys"


def test_finite():
    assert rules.is_finite([1, "nan", None, (2.0, [3])])
    assert not rules.is_finite((1.0, [NAN]))
    assert not rules.is_finite(INF)
