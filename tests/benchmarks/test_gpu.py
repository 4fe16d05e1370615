"""The run for a GPU, tried on a CPU, and refused without a device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.__main__ import chosen


def test_without_a_device_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"needs a CUDA device, and torch .* finds none"):
        gpu.main([str(tmp_path / "figures")])
    assert not (tmp_path / "figures").exists()


def test_its_cases_are_cases() -> None:
    assert chosen(gpu.CASES) == list(gpu.CASES)


def test_every_step_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([str(tmp_path), "--try-on-cpu"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left out"] == []
    assert (
        "deselected" in found["tests"] or "skipped" in found["tests"] or "passed" in found["tests"]
    )
    assert found["shapes"]["iterations"] == 2
    metrics = (tmp_path / "shapes" / "run" / "metrics.json").read_text().splitlines()
    assert f'"sem_seg/mIoU": {found["shapes"]["mIoU"]}' in metrics[-1]
    assert {row["case"] for row in found["cases"]} == set(gpu.TINY)
    assert "no card" in found["machine"]["card"]
    assert gpu.TINY[0] in capsys.readouterr().out


def test_what_there_is_no_time_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "MINUTES", 0)
    monkeypatch.setattr(gpu, "cuda_tests", lambda _: "none")
    monkeypatch.setattr(gpu, "train_on_shapes", lambda *_, **__: {})
    gpu.main([str(tmp_path), "--try-on-cpu"])
    left_out = json.loads((tmp_path / "gpu.json").read_text())["left out"]
    assert left_out == [f"{case}: no time left" for case in gpu.TINY]


def test_a_step_that_fails_says_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    assert "No such file" in gpu.train_on_shapes(tmp_path, tiny=True)["failed"]


def test_it_begins_without_a_warning() -> None:
    """Detectron2 warns, as it is imported, of what nobody can mend."""
    command = [sys.executable, "-W", "error::FutureWarning", "-m", "benchmarks.gpu", "--help"]
    done = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
