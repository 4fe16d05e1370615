"""What a person sees of a run, and what is only in its log."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage
from torch import nn

from mask_former.d2.run.terminal import (
    Progress,
    Terminal,
    command_to_resume,
    open_logs,
    parameters,
    result_tables,
    summary,
)
from tests.small_runs import CONFIG, TINY, flat, tiny_cfg

ROOT = Path(__file__).parents[3]


def record(name: str, level: int, text: str, error: BaseException | None = None):
    exc_info = (type(error), error, None) if error else None
    return logging.LogRecord(name, level, "file.py", 1, text, (), exc_info)


@pytest.mark.parametrize(
    ("name", "level", "shown"),
    [
        ("mask_former.d2.trainer", logging.INFO, "text\n"),
        ("mask_former.d2.trainer", logging.DEBUG, ""),
        ("mask_former.d2.data.mappers", logging.INFO, ""),
        ("mask_former.d2.data.mappers", logging.WARNING, "warning: text\n"),
        ("detectron2.data.build", logging.INFO, ""),
        ("detectron2.data.build", logging.ERROR, "error: text\n"),
        ("detectron2.engine.train_loop", logging.INFO, "text\n"),
        ("fvcore.common.checkpoint", logging.INFO, ""),
    ],
)
def test_what_the_terminal_shows(capsys, name, level, shown):
    Terminal().emit(record(name, level, "text"))
    assert capsys.readouterr().out == shown


def test_tracebacks_are_left_to_python(capsys):
    Terminal().emit(record("detectron2", logging.ERROR, "text", ValueError()))
    assert capsys.readouterr().out == ""


def test_the_file_has_everything_and_the_next_run_another_file(tmp_path, capsys):
    names = ("detectron2.x", "fvcore.x", "mask_former.x")
    for folder in ("first", "second"):
        open_logs(str(tmp_path / folder))
        for name in names:
            logging.getLogger(name).debug("%s in the %s run", name, folder)
    for folder in ("first", "second"):
        lines = (tmp_path / folder / "log.txt").read_text().splitlines()
        assert [line.partition("] ")[2] for line in lines] == [
            f"{name} DEBUG: {name} in the {folder} run" for name in names
        ]
    assert capsys.readouterr().out == ""


def test_other_processes_do_not_talk(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 3)
    open_logs(str(tmp_path))
    logging.getLogger("mask_former.x").warning("from another process")
    assert "from another process" in (tmp_path / "log.txt.rank3").read_text()
    assert capsys.readouterr().out == ""


def test_parameters():
    model = nn.ModuleList([nn.Linear(1000, 1000), nn.Linear(1000, 500)])
    assert parameters(model) == "1.5 million parameters"
    model[1].requires_grad_(False)
    assert parameters(model) == "1.5 million parameters, 1.0 trained"


def test_summary(tmp_path):
    cfg = tiny_cfg(tmp_path, {"SOLVER.MAX_ITER": 30, "SOLVER.IMS_PER_BATCH": 2})
    lines = dict(line.split("  ", 1) for line in summary(cfg, nn.Linear(1, 1), 24, 10).splitlines())
    told = {key: value.strip() for key, value in lines.items()}
    assert told["model"] == "MaskFormer on tiny_resnet, 0.0 million parameters"
    assert told["training data"] == "camvid_sem_seg_train, 24 pictures"
    assert told["batch"] == "2 pictures"
    assert told["length"] == "30 iterations, 2.5 epochs, from iteration 10"
    assert told["learning rate"] == "0.0003, ADAMW, WarmupPolyLR"
    assert told["device"].startswith("cpu, ")
    assert told["output"] == f"{tmp_path / 'out'}; log.txt has everything"


def test_progress(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mask_former"), "propagate", True)
    caplog.set_level(logging.INFO, logger="mask_former")
    progress = Progress(100)
    with EventStorage(19) as storage:
        storage.put_scalars(total_loss=9.0, loss_ce=2.0, loss_ce_0=3.0, loss_dice=4.0, time=0.5)
        progress.write()
        storage.iter = 100
        progress.write()
    with EventStorage(19) as storage:  # a single loss, which Detectron2 keeps as the total alone
        storage.put_scalars(total_loss=9.0)
        progress.write()
    assert caplog.messages == [
        "iteration 20 of 100: loss 9 (ce 5, dice 4), 0.5 s each, 0:00:40 left",
        "iteration 20 of 100: loss 9",
    ]


def test_results():
    measures = {"mIoU": 50.0, "IoU-sky": 25.0, "IoU-grass": 75.0, "ACC-sky": float("nan")}
    blocks = result_tables({"sem_seg": measures, "notes": "text"}).split("\n\n")
    rows = [[line.split() for line in block.splitlines()] for block in blocks]
    assert rows[0][0] == ["mIoU"]
    assert rows[0][2] == ["sem_seg", "50.00"]
    assert rows[1][0] == ["class", "IoU", "ACC"]
    assert rows[1][2:] == [["sky", "25.00", "nan"], ["grass", "75.00", "nan"]]


def test_many_classes_stand_side_by_side():
    measures = {f"IoU-{i}": float(i) for i in range(81)}
    table = result_tables({"sem_seg": measures}).splitlines()
    assert len(table) == 2 + 27
    assert table[2].split() == ["0", "0.00", "27", "27.00", "54", "54.00"]


def test_the_command_to_resume():
    argv = ["./train_net.py", "--overwrite", "--config-file", "a b.yaml", "SEED", "1"]
    assert command_to_resume(argv) == "./train_net.py --resume --config-file 'a b.yaml' SEED 1"
    assert command_to_resume(["x.py", "--resume"]) == "x.py --resume"


def test_the_command_to_resume_of_a_program_of_several_words(tmp_path):
    assert command_to_resume(["python -m p train", "A", "b c"]) == (
        "python -m p train --resume A 'b c'"
    )
    script = tmp_path / "my script.py"
    script.touch()
    assert command_to_resume([str(script), "A"]) == f"'{script}' --resume A"


@pytest.mark.usefixtures("images")
def test_few_lines_before_the_first_iteration(tmp_path):
    """The whole of what a user sees of a run, warnings of libraries included."""
    opts = flat({**TINY, "MODEL.DEVICE": "cpu", "OUTPUT_DIR": tmp_path / "out"})
    command = [sys.executable, "train_net.py", "--num-gpus", "0", "--config-file", str(CONFIG)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *opts], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines.index("Starting training from iteration 0") < 12
    assert max(map(len, lines)) < 160
    assert "iteration 3 of 3: loss" in done.stdout
    assert "bicyclist" in done.stdout
    log = (tmp_path / "out" / "log.txt").read_text()
    for part in ("SEM_SEG_HEAD:", "MaskFormer(", "copypaste", "total_loss:", "Augmentations"):
        assert part in log
        assert part not in done.stdout


@pytest.mark.parametrize("script", ["train_net.py", "demo/demo.py", "tools/analyze_model.py"])
def test_commands_begin_without_warnings_of_libraries(script):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("usage:")
