"""The benchmark of the overlays runs and prints its ratio."""

import re

import pytest

from benchmarks import visualizer


def test_prints_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    visualizer.main(["--height", "60", "--width", "90", "--things", "2", "--pairs", "3"])
    printed = capsys.readouterr().out
    assert "90 x 60 pixels, 7 segments, 3 pairs" in printed
    matplotlib, opencv, ratio = map(float, re.findall(r"\d+\.\d", printed))
    assert min(matplotlib, opencv, ratio) > 0
