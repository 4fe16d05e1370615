"""The benchmark of the results runs, and refuses wrong ones."""

import json

import pytest
import torch

from benchmarks import postprocessing
from benchmarks.postprocessing import Shape, difference, random_head


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(postprocessing.SHAPES, "ade20k", Shape(60, 91, 19))


def run(tmp_path, *arguments):
    path = tmp_path / "figures.json"
    fixed = ["--shapes", "ade20k", "--pairs", "2", "--threads", "1", "--json", str(path)]
    postprocessing.main([*fixed, *arguments])
    return json.loads(path.read_text())


def test_table_and_json(tmp_path, capsys):
    rows = run(tmp_path)
    assert [row["result"] for row in rows] == ["semantic", "labels", "panoptic", "both"]
    assert all(row["difference"] < 1e-4 and row["time ratio"] > 0 for row in rows)
    assert all(row["ours MiB"] < row["reference MiB"] for row in rows)
    assert [row["reads"] for row in rows] == [0, 0, 1, 1]
    # Three of each of the sure queries that is kept, and three to choose them.
    assert rows[2]["reference reads"] > 2 * postprocessing.SURE
    assert "ade20k" in capsys.readouterr().out


def test_what_exceeds_the_budget_is_not_measured(tmp_path):
    output = 4 * 19 * 60 * 91 / 2**30
    (row,) = run(tmp_path, "--results", "semantic", "--budget", str(1.01 * output))
    assert row["ours ms"] > 0
    assert row["over output"] > 1
    assert row["reference ms"] is None
    (row,) = run(tmp_path, "--results", "semantic", "--budget", str(0.99 * output))
    assert row["ours ms"] is None


def test_the_sure_queries_get_a_segment_each():
    shape = postprocessing.SHAPES["ade20k"]
    found = postprocessing.our_result(random_head(shape), shape, "panoptic")
    ids, segments = found["panoptic_seg"]
    assert ids.shape == (60, 91)
    assert sum(s["area"] for s in segments) == int((ids > 0).sum()) > 0.9 * ids.numel()


def test_results_that_differ_are_refused():
    scores = {"sem_seg": torch.ones(2, 3, 3)}
    assert difference(scores, scores) == 0
    with pytest.raises(RuntimeError, match="differ by"):
        difference(scores, {"sem_seg": torch.full((2, 3, 3), 1.1)})
