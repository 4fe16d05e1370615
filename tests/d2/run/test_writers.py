"""Where numbers go: no iteration twice after a resume, and a run of W&B without a network."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mask_former.d2.errors import InputError
from mask_former.d2.run.writers import WandbWriter, _take_back
from tests.d2.run.runs import run
from tests.small_runs import tiny_cfg

OPTIONS = {"DATASETS.TEST": "()", "SOLVER.MAX_ITER": 3}


def test_lines_of_later_iterations_are_taken_back(tmp_path):
    file = tmp_path / "metrics.json"
    _take_back(file, 3)
    assert not file.exists()
    lines = [
        '{"iteration": 1, "a": 2}\n',
        '{"iteration": 3}\n',
        "[]\n",
        '{"iteration": 2}\n',
        '{"itera',
    ]
    file.write_text("".join(lines))
    _take_back(file, 3)
    assert file.read_text() == lines[0] + lines[3]


def test_what_cannot_be_written_leaves_the_lines(tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    file.write_text('{"iteration": 1}\n{"iteration": 3}\n')

    def fail(_: int) -> None:
        raise OSError("no space left on the device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        _take_back(file, 3)
    assert file.read_text() == '{"iteration": 1}\n{"iteration": 3}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.usefixtures("images")
def test_no_iteration_twice_after_a_kill(tmp_path):
    """A run that was killed after it wrote iteration 2, whose last checkpoint is of iteration 1."""
    cfg = tiny_cfg(tmp_path, {**OPTIONS, "SOLVER.CHECKPOINT_PERIOD": 2})
    run(cfg)
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000001.pth")
    run(cfg, resume=True)
    text = (tmp_path / "out" / "metrics.json").read_text()
    iterations = [json.loads(line)["iteration"] for line in text.splitlines()]
    assert iterations == [2]
    events = EventAccumulator(str(tmp_path / "out")).Reload()
    assert [scalar.step for scalar in events.Scalars("total_loss")] == [2]


@pytest.mark.usefixtures("images")
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="W&B is an extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = tiny_cfg(tmp_path, {**OPTIONS, "WANDB_PROJECT": "shapes", "SOLVER.MAX_ITER": 2})
    run(cfg)
    name = (tmp_path / "out" / "wandb_run").read_text()
    (record,) = (tmp_path / "out" / "wandb").glob(f"offline-run-*-{name}/*.wandb")
    end = time.monotonic() + 20  # its own process may still be writing
    while b"loss_dice" not in record.read_bytes() and time.monotonic() < end:
        time.sleep(0.1)
    assert b"total_loss" in record.read_bytes()
    cfg.SOLVER.MAX_ITER = 3
    run(cfg, resume=True)
    assert (tmp_path / "out" / "wandb_run").read_text() == name


def test_weights_and_biases_without_a_key(tmp_path):
    pytest.importorskip("wandb", reason="W&B is an extra")
    script = (
        "import sys\nfrom mask_former.d2.errors import InputError\n"
        "from mask_former.d2.run.writers import WandbWriter\n"
        "try:\n    WandbWriter(sys.argv[1], 'p')\nexcept InputError as error:\n    print(error)\n"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    done = subprocess.run(  # the package remembers the mode of the tests before
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)],
        env={**kept, "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "WANDB_PROJECT is 'p', which W&B refuses: " in done.stdout
    assert "wandb login" in done.stdout


def test_weights_and_biases_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"WANDB_PROJECT is 'p', but .*'mask_former\[wandb\]'"):
        WandbWriter(str(tmp_path), "p")
    assert not list(Path(tmp_path).iterdir())
