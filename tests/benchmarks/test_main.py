"""The run of all benchmarks: what becomes of their figures."""

import sys

import pytest

from benchmarks.__main__ import bars, main


def criterion_row(method, time, memory):
    return {"shape": "coco", "method": method, "time ratio": time, "memory ratio": memory}


def result_row(shape, result, time, over):
    return {"shape": shape, "result": result, "time ratio": time, "over output": over}


def test_bars_take_the_worst_figures():
    rows = {
        "criterion": [
            criterion_row("dense", 0.75, 0.13),
            criterion_row("losses", 0.5, 0.9),
            criterion_row("points", 0.2, 0.01),
            criterion_row("dense", 9, 9) | {"shape": "ade20k"},
        ],
        "postprocessing": [
            result_row("ade20k", "semantic", 0.6, 1.1),
            result_row("640-19", "semantic", 0.9, 1.3),
            result_row("ade20k", "labels", 0.1, 6.0),
            result_row("ade20k", "panoptic", 0.1, 1.0),
            result_row("640-19", "panoptic", 0.15, 1.0),
            result_row("2048-847", "semantic", None, None),
        ],
        "inference": [{"time ratio": 0.5}, {"time ratio": 1.0}],
        "training": [{"time ratio": 0.5}, {"time ratio": 1.0}],
    }
    found = {bar.what: (bar.figure, bar.figure <= bar.allowed) for bar in bars(rows)}
    assert found == {
        "criterion, COCO: dense, memory": (0.13, False),
        "criterion, COCO: dense, time": (0.75, True),
        "criterion, COCO: dense losses alone, time": (0.5, True),
        "criterion, COCO: points, memory": (0.01, True),
        "criterion, COCO: points, time": (0.2, False),
        "panoptic alone, time": (0.15, True),
        "semantic, 512x683, 150 classes, time": (0.6, True),
        "scores and segments, peak over output": (1.3, False),
        "whole models, float32, highest time": (1.0, True),
        "whole models, float32, geometric mean": (pytest.approx(0.5**0.5), True),
    }


def test_what_is_missing_is_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = tmp_path / "figures"
    with pytest.raises(SystemExit, match="benchmark"):
        main([str(folder)])
    assert not folder.exists()
    assert capsys.readouterr().out == ""
