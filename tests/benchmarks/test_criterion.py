"""The benchmark of the criterion runs, and what it measures is what it says."""

import json

import pytest
import torch

from benchmarks import criterion, measure


def test_memory_is_the_peak_above_the_start():
    kept = torch.zeros(2**18)  # 1 MiB that is there before

    def work():
        first = torch.zeros(3 * 2**18)
        second = torch.ones(2 * 2**18)
        del first
        return kept.sum() + second.sum() + torch.zeros(2**18).sum()

    assert measure.peak_mib(work) == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("method", criterion.METHODS)
def test_table_and_json(tmp_path, capsys, monkeypatch, method):
    tiny = criterion.Shape(
        images=2, height=64, width=48, segments=3, classes=4, queries=6, layers=2, channels=8
    )
    monkeypatch.setitem(criterion.SHAPES, "coco", tiny)
    path = tmp_path / "figures.json"
    options = ["--pairs", "2", "--threads", "1", "--json", str(path)]
    criterion.main(["--shapes", "coco", "--methods", method, *options])
    (row,) = json.loads(path.read_text())
    assert (row["shape"], row["method"]) == ("coco", method)
    if method == "points":
        assert row["largest difference"] is None
    else:
        assert row["largest difference"] < 1e-5
    assert min(row["time ratio"], row["memory ratio"], row["ours ms"], row["ours MiB"]) > 0
    reads = 0 if method == "losses" else 1  # the matches of "losses" are given
    assert row["reads"] == reads
    # Of each of two layers and images the costs, and as often the matches' labels or masks.
    assert row["reference reads"] >= 4 * reads
    assert "coco" in capsys.readouterr().out
