"""Bad inputs by the hundred: each ends in one sentence, and none is taken in silence."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.bad_inputs import commands, values, weights_files, yaml_files
from tests.bad_inputs.case import (
    REFUSED,
    RIGHT,
    SENTENCE,
    SILENT,
    TRACEBACK,
    UNCLEAR,
    Case,
    made_up_data,
    try_case,
)

KINDS = {"values": values, "yaml": yaml_files, "weights": weights_files, "commands": commands}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Made-up data lie beside it."""
    with made_up_data(tmp_path):
        yield tmp_path / "bad"


def faults(cases: Iterator[Case]) -> list[tuple[str, str, str]]:
    results = map(try_case, cases)
    return [(r.case.name, r.outcome, r.said) for r in results if r.outcome not in (SENTENCE, RIGHT)]


@pytest.mark.parametrize(
    ("kind", "step"), [("values", 40), ("yaml", 2), ("weights", 2), ("commands", 8)]
)
def test_some(folder: Path, kind: str, step: int) -> None:
    assert faults(islice(KINDS[kind].cases(folder), 0, None, step)) == []


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_all(folder: Path, kind: str) -> None:
    assert faults(KINDS[kind].cases(folder)) == []


def test_there_are_enough_and_none_twice(folder: Path) -> None:
    names = [(c.kind, c.name) for kind in KINDS for c in KINDS[kind].cases(folder / kind)]
    assert len(names) > 1400
    assert [name for name, times in Counter(names).items() if times > 1] == []


@pytest.mark.parametrize(
    ("act", "is_right", "outcome"),
    [
        (lambda: None, True, RIGHT),
        (lambda: None, False, SILENT),
        (lambda: 1 / 0, False, TRACEBACK),
        (lambda: exec("raise SystemExit('error: give a number from 0 to 1')"), False, SENTENCE),
        (lambda: exec("raise SystemExit('error: give a number from 0 to 1')"), True, REFUSED),
        (lambda: exec("raise SystemExit(1)"), False, UNCLEAR),
        (lambda: exec("raise SystemExit('error: two lines\\nare no sentence')"), False, UNCLEAR),
    ],
)
def test_outcomes_are_told_apart(act: Callable[[], object], is_right: bool, outcome: str) -> None:
    assert try_case(Case("kind", "name", act, is_right)).outcome == outcome
