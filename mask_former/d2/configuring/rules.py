"""What the value of a key may be: rules, each with the words that complete "give ..."."""

import math
import numbers
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import did_you_mean

LARGEST = 2**63 - 1  # of a tensor's integers


class Rule(NamedTuple):
    """A test of values, and what it lets pass in words."""

    allowed: str
    accepts: Callable[[Any], bool]
    names: tuple[str, ...] = ()
    """Where the value is one of some names: those, among which a misspelt one is looked for."""

    def refusal(self, key: str, value: Any) -> str:
        """The sentence about a value that the rule does not accept."""
        hint = did_you_mean(value, self.names) if isinstance(value, str) else ""
        return f"{key} is {shown(value)}; give {self.allowed}{hint}"


def shown(value: Any) -> str:
    """A value as a sentence names it: as Python writes it, cut after a line."""
    text = f"a section of {len(value)} keys" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def whole(least: float = -math.inf, most: int = LARGEST) -> Rule:
    """A whole number in a range, both ends included."""
    allowed = f"a whole number{_limits(least, most, LARGEST)}"
    return Rule(allowed, lambda value: _is(value, numbers.Integral) and least <= value <= most)


def number(least: float = -math.inf, most: float = math.inf) -> Rule:
    """A finite number in a range, both ends included."""
    return Rule(
        f"a number{_limits(least, most, math.inf)}",
        lambda value: _is(value, numbers.Real) and math.isfinite(value) and least <= value <= most,
    )


def above_zero(most: float = math.inf) -> Rule:
    """A number above 0; without ``most``, infinity is one."""
    end = f" and up to {most:g}" if most < math.inf else ""
    return Rule(
        f"a number above 0{end}", lambda value: _is(value, numbers.Real) and 0 < value <= most
    )


def one_of(*values: Any) -> Rule:
    """One of these values; of names, a misspelt one is recognised."""
    *front, last = map(_word, values)
    return Rule(
        f"{', '.join(front)} or {last}" if front else last,
        lambda value: any(type(value) is type(v) and value == v for v in values),
        tuple(v for v in values if isinstance(v, str) and v),
    )


def like(*names: str) -> Rule:
    """One of these names, or another that could not be meant for one of them."""
    return Rule(
        f"{', '.join(names)}, or a name of yours",
        lambda v: isinstance(v, str) and (v in names or not did_you_mean(v, names)),
        names,
    )


def list_of(rule: Rule, least: int = 1, most: int | None = None) -> Rule:
    """A list or tuple of values that a rule accepts, of so many of them."""
    length = f" of {least}" if most == least else " of at least one" if least else ""
    return Rule(
        f"a list{length}, each {rule.allowed}",
        lambda value: (
            isinstance(value, list | tuple)
            and least <= len(value) <= (len(value) if most is None else most)
            and all(map(rule.accepts, value))
        ),
        rule.names,
    )


def optional(rule: Rule) -> Rule:
    """What the rule accepts, or None."""
    return Rule(f"{rule.allowed}, or None", lambda v: v is None or rule.accepts(v), rule.names)


SWITCH = Rule("True or False", lambda value: isinstance(value, bool))
_UNWRITABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")  # no name of a file has these
TEXT = Rule(
    "text without control characters",
    lambda value: isinstance(value, str) and not _UNWRITABLE.search(value),
)
NAME = Rule("a name", lambda value: TEXT.accepts(value) and bool(value.strip()))


def is_finite(value: Any) -> bool:
    """Whether no number in a value, or in a list of values, is infinite or none at all."""
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _limits(least: float, most: float, unlimited: float) -> str:
    if most >= unlimited:
        return f" of {least:g} or more" if least > -math.inf else ""
    return f" of {most} or less" if least == -math.inf else f" from {least:g} to {most}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value else "''" if value == "" else str(value)
