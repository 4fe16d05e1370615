"""Parts of a step and lines and predictions by hand; and a step of two processes."""

import json
from pathlib import Path

import pytest

from benchmarks import scaling, steps
from benchmarks.steps import PARTS, Setup


def test_setups_have_names() -> None:
    assert steps.setup_named("queries=50,processes=2") == Setup(queries=50, processes=2)
    for setup in (*scaling.SETUPS, Setup("R50", 512, 1, 5, 6, 7, 8)):
        assert steps.setup_named(steps.name_of(setup)) == setup


def test_a_part_within_another_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    monkeypatch.setattr(steps, "now", lambda: seconds[0])
    clock = steps.Clock(float)

    def inner() -> None:
        seconds[0] += 3

    def outer() -> None:
        seconds[0] += 1
        clock.timed("inner", inner)()
        clock.timed("inner", inner)()
        seconds[0] += 1

    clock.timed("whole", clock.timed("outer", outer))()
    assert clock == {"inner": 6, "outer": 2, "whole": 0}


def test_lines_through_an_axis() -> None:
    rows = {
        setup: dict.fromkeys(PARTS, 7.0)
        | {"backward": 2 + setup.size**2, "losses": float(setup.size == 256), "live MiB": 1.0}
        for setup in scaling.SWEEPS["size"]
    }
    found = {row["of"]: row for row in scaling.fits(rows)}
    assert {row["axis"] for row in found.values()} == {"size"}  # of others there is no row
    line = found["backward"]
    assert (line["at 0"], line["each"], line["R2"]) == pytest.approx(
        (2, 1000, 1)
    )  # of a thousand pixels
    assert found["losses"]["R2"] < 0.1
    assert found["rest"]["each"] == pytest.approx(0)


def test_predictions_by_hand() -> None:
    row = {"pictures": 2, "parameters": 10**7} | dict.fromkeys(PARTS, 0.0)
    row |= {"backward": 2000.0, "backbone": 1000.0, "assignment": 5.0}
    row["optimizer"] = 100.0

    def predicted(speed: float, pictures: int, n: int, workers: int = 4) -> scaling.Row:
        return scaling.predicted(row, 60, workers, speed, pictures, n, gigabits=1)

    found = predicted(1, 2, 1)
    assert (found["loader"], found["all-reduce"], found["step"]) == (30, 0, 3105)
    assert found["limit"] == "model"
    # 40 MB sent one and a half times are 60 MB, 480 ms at 1 Gbit/s, of which backward hides 20.
    found = predicted(100, 2, 4)
    assert (found["all-reduce"], found["step"]) == (480, 10 + 20 + 1 + 5 + 460)
    assert found["pictures/s"] == pytest.approx(1000 * 8 / 496)
    assert found["limit"] == "network"
    # With ten times as many pictures all but the optimizer takes ten times as long.
    assert predicted(100, 20, 4)["step"] == 100 + 200 + 1 + 50 + 280
    assert predicted(100, 2, 1, workers=1)["limit"] == "loader"
    row["assignment"] = 40.0
    assert predicted(100, 2, 1)["limit"] == "matcher"


def test_two_processes_send_what_a_ring_sends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = "size=64,pictures=1,processes=2"
    scaling.main([str(tmp_path / "new"), case])
    assert "transformer decoder" in capfd.readouterr().out
    (file,) = (tmp_path / "new").iterdir()
    row = json.loads(file.read_text())
    assert row["parameters"] > 10**7
    assert row["MB sent"] * 1e6 == pytest.approx(4 * row["parameters"], rel=0.01)
    assert min(row[part] for part in (*PARTS, "all-reduce", "live MiB")) > 0
    again = dict.fromkeys(row, 1.0)
    file.write_text(json.dumps(again))
    assert scaling.measured(steps.setup_named(case), tmp_path / "new") == again
