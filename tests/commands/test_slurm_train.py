"""Jobs of submitit, by its executor for one machine: preempted, queued again, and refused."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from mask_former.commands import slurm_train
from tests.small_runs import CONFIG, ROOT, TINY, flat


def command(folder: Path, *flags: str, **changes: object) -> list[str]:
    options = {**TINY, "DATASETS.TEST": "()", "OUTPUT_DIR": folder / "out", **changes}
    line = ["--local", "--gpus", "0", "--folder", str(folder / "jobs"), *flags]
    return [*line, "--", "--config-file", str(CONFIG), *flat(options)]


def submit(line: list[str]):
    return slurm_train.submit(slurm_train.argument_parser().parse_args(line))


def iterations(folder: Path) -> list[int]:
    metrics = folder / "out" / "metrics.json"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return [json.loads(line)["iteration"] for line in lines]


@pytest.fixture
def _submitit(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is an extra")
    monkeypatch.chdir(ROOT)  # where the job imports the package


@pytest.mark.nightly
@pytest.mark.usefixtures("_submitit")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_is_preempted_goes_on(tmp_path, processes):
    """The signal that SLURM's submitit sends; the job ends complete, with one result."""
    length = {"SOLVER.MAX_ITER": 120, "SOLVER.IMS_PER_BATCH": 4}
    job = submit(command(tmp_path, "--processes", str(processes), **length))
    end = time.monotonic() + 100
    while not iterations(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    controller = job._process.pid
    children = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    assert len(children) == processes
    for pid in children:
        os.kill(int(pid), signal.SIGUSR2)
    job.wait()
    assert job.exception() is None
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "model_interrupted_rank0.pth" in log
    assert (
        "Starting training from iteration"
        in log.rpartition("Starting training from iteration 0")[2]
    )
    assert torch.load(tmp_path / "out" / "model_final.pth")["trainer"]["iteration"] == 119
    assert len(iterations(tmp_path)) == len(set(iterations(tmp_path)))


@pytest.mark.nightly
@pytest.mark.usefixtures("_submitit")
def test_the_error_of_a_job_is_shown(tmp_path):
    line = command(tmp_path, **{"SOLVER.OPTIMIZER": "adamw"})
    with pytest.raises(SystemExit, match=r"(?s)error: .*SOLVER\.OPTIMIZER is 'adamw'"):
        slurm_train.main(line)


def test_what_is_queued_after_a_preemption():
    pytest.importorskip("submitit", reason="submitit is an extra")
    first = slurm_train.Training(["--overwrite", "--config-file", "a.yaml"])
    for _ in range(2):
        again = first.checkpoint()
        first = again.function
        assert first.arguments == ["--resume", "--config-file", "a.yaml"]


@pytest.mark.parametrize("flag", ["--nodes", "--hours", "--processes", "--cpus"])
def test_what_cannot_be_asked_for(flag):
    pytest.importorskip("submitit", reason="submitit is an extra")
    with pytest.raises(SystemExit, match=f"error: {flag} is 0"):
        slurm_train.main([flag, "0"])


def test_without_submitit(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SystemExit, match=r"pip install 'mask_former\[slurm\]'"):
        slurm_train.main([])


def test_can_be_executed():
    assert os.access(ROOT / "tools" / "slurm_train.py", os.X_OK)


def test_what_submitit_refuses_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is an extra")
    monkeypatch.setenv("PATH", str(tmp_path))  # without srun
    with pytest.raises(SystemExit, match=r"error: Could not detect .*--local runs on this machine"):
        submit(["--folder", str(tmp_path), "--", "--config-file", "x"])
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit, match=r"error: --folder .*file cannot be made .* name another"):
        submit(["--local", "--folder", str(file)])
    with pytest.raises(SystemExit, match="error: --hours is nan"):
        submit(["--local", "--hours", "nan"])
