"""The benchmark of growth: every work runs, and the exponents are those of the figures."""

import json

import pytest

from benchmarks import scaling
from benchmarks.criterion import Shape

TINY = Shape(2, 32, 32, segments=3, classes=4, queries=6, layers=2, channels=8)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(scaling, "BASE", TINY)
    monkeypatch.setitem(scaling.AXES, "size", (32, 64))
    monkeypatch.setitem(scaling.AXES, "queries", (6, 12))


@pytest.mark.usefixtures("tiny")
def test_table_json_and_plot(tmp_path, capsys):
    figures, picture = tmp_path / "figures.json", tmp_path / "plot.png"
    argv = ["--axes", "size", "queries", "--runs", "1", "--threads", "1"]
    scaling.main([*argv, "--json", str(figures), "--plot", str(picture)])
    rows = json.loads(figures.read_text())
    found = {(row["axis"], row["value"], row["work"]) for row in rows}
    assert len(found) == len(rows) == 4 * len(scaling.WORKS)
    assert min(row["ms"] for row in rows) > 0
    assert min(row["MiB"] for row in rows) > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "panoptic, reference" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_the_reference_is_left_out_where_it_would_not_fit(monkeypatch):
    monkeypatch.setattr(scaling, "LIMIT", 6 * 32 * 32)  # masks of all queries, at full size
    assert len(scaling.measure("size", 32, runs=1)) == len(scaling.WORKS)
    works = {row["work"] for row in scaling.measure("size", 64, runs=1)}
    assert set(scaling.WORKS) - works == {"scores, reference", "panoptic, reference"}
    # Training holds those of two layers and two images at a sixteenth.
    assert scaling.fits("dense, reference", scaling.varied("size", 64))
    assert not scaling.fits("dense, reference", scaling.varied("size", 68))


def test_exponents_of_known_laws():
    rows = [
        {"axis": "size", "value": n, "work": work, "ms": 3.0 * n**2, "MiB": 5.0}
        for n in (2, 4, 16)
        for work in scaling.WORKS
    ]
    first, second, *_ = scaling.exponents(rows)
    assert (first["of"], second["of"]) == ("ms", "MiB")
    assert first["size"] == pytest.approx(2)
    assert second["size"] == pytest.approx(0, abs=1e-9)


def test_one_value_has_no_exponent():
    rows = [{"axis": "images", "value": 1, "work": "dense", "ms": 1.0, "MiB": 1.0}]
    assert scaling.exponents(rows)[0]["images"] is None
