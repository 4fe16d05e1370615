"""The run of all benchmarks: which cases, and what becomes of their figures."""

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as script
from benchmarks import models
from benchmarks.measure import module_of


def test_names_of_cases() -> None:
    assert script.chosen(["criterion"]) == [
        f"criterion/{x}" for x in ("ade20k", "coco", "ade20k-full")
    ]
    assert script.chosen(["criterion/coco"]) == ["criterion/coco"]
    assert script.chosen(["criterion/size=64"]) == ["criterion/size=64"]
    assert len(script.chosen(["models/R50/train"])) == 2
    assert "criterion/queries=50" in script.chosen(["growth"])
    with pytest.raises(SystemExit, match="speed is no case; cases begin with one of criterion, "):
        script.chosen(["speed"])


def test_bars_are_of_cases_and_sides_that_there_are() -> None:
    for bar in script.BARS:
        for case in bar.cases:
            assert case in module_of(case).CASES
            assert bar.side in module_of(case).SIDES or bar.side == "ours"


def test_a_bar_takes_the_worst_or_the_mean_of_its_cases() -> None:
    def row(case: str, side: str, ratio: float) -> script.Row:
        return {"case": case, "side": side, "ms ratio": ratio, "live ratio": ratio / 10}

    rows = [row(case, "ours", 0.1) for case in script.PANOPTIC[1:]]
    assert script.bars(rows) == []  # one case is missing
    rows += [row(script.PANOPTIC[0], "ours", 0.3), row(script.PANOPTIC[0], "reference", 1.0)]
    rows += [row(case, "ours", 0.5) for case in script.WHOLE[1:]]
    rows += [row(script.WHOLE[0], "ours", 1.0)]
    found = {bar["bar"]: (bar["is"], bar["holds"]) for bar in script.bars(rows)}
    assert found == {
        "panoptic alone: time": (0.3, False),
        "panoptic alone: memory": (0.03, True),
        "whole models, highest: time": (1.0, False),
        "whole models, mean: time": (pytest.approx(0.5 ** (1 - 1 / len(script.WHOLE))), True),
    }


def test_figures_are_kept_and_what_cannot_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(case: str, threads: int, rounds: int) -> list[script.Row]:
        if case == "criterion/ade20k-full":
            raise RuntimeError("it is too large")
        assert (threads, rounds) == (2, 3)
        return [{"case": case, "side": "dense", "ms ratio": 0.2, "live ratio": 0.04}]

    monkeypatch.setattr(script, "compare", compare)
    script.main([str(tmp_path / "new"), "criterion", "--threads", "2"])
    rows = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert [row["case"] for row in rows] == ["criterion/ade20k", "criterion/coco"]
    printed = capsys.readouterr().out
    assert "not measured: it is too large" in printed
    assert "criterion, COCO, dense: memory" in printed


def test_what_is_missing_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SIDES", ("ours",))
    with pytest.raises(SystemExit, match=r"install the extra: pip install -e \"\.\[benchmark\]"):
        script.main([str(tmp_path / "figures"), "--bars"])
    assert not (tmp_path / "figures").exists()
