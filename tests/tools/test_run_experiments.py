"""A table: each row trained once by the real command, and read from what that wrote."""

import fcntl
import json
import os
import signal
import sys
import threading
import time

import pytest
import yaml

from mask_former.commands.prepare_shapes import prepare
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.configuring.checks import leaves
from mask_former.d2.errors import InputError
from tests.small_runs import ROOT

QUICK = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.DEVICE": "cpu",
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.MAX_ITER": 2,
    "DATALOADER.NUM_WORKERS": 0,
}
TABLE = {
    "config": "configs/shapes/maskformer_panoptic_tiny.yaml",
    "seeds": [3, 4],
    "settings": QUICK,
    "rows": {"as it is": {}, "one, only": {"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 4}},
    "columns": {"mIoU": "sem_seg/mIoU", "PQ": "panoptic_seg/PQ"},
}


@pytest.fixture
def write(tmp_path):
    def written(**parts):
        path = tmp_path / "table.yaml"
        path.write_text(yaml.safe_dump({**TABLE, **parts}, sort_keys=False))
        return str(path)

    return written


def finished(folder, **metrics):
    """What a run leaves that the tool reads."""
    folder.mkdir(parents=True)
    (folder / "model_final.pth").touch()
    lines = [{"iteration": 1, "total_loss": 1.0}, {"iteration": 2, **metrics}]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))


def rows_of(text):
    """Cells of each row below the header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_a_row_is_trained_once(tool, write, tmp_path, monkeypatch, capsys):
    prepare(tmp_path / "shapes", 0, {"train": 2, "val": 2, "dev": 1})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    output = tmp_path / "runs"
    finished(output / "one_only" / "seed4", **{"sem_seg/mIoU": 90.0, "panoptic_seg/PQ": 80.0})
    command = [write(), str(output), "--rows", "one", "SOLVER.WARMUP_ITERS", "0"]
    tool.main(command)
    run = output / "one_only" / "seed3"
    measured = json.loads((run / "metrics.json").read_text().splitlines()[-1])
    miou, pq = measured["sem_seg/mIoU"], measured["panoptic_seg/PQ"]
    expected = ["one, only"]
    expected += [
        f"{(a + b) / 2:.1f} ({min(a, b):.1f} to {b:.1f})" for a, b in ((miou, 90), (pq, 80))
    ]
    first = capsys.readouterr().out
    assert rows_of(first) == [[*expected, "2"]]
    assert f"one, only, seed 3, in {run}" in first
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["SEED"] == 3
    assert config["SOLVER"]["WARMUP_ITERS"] == 0
    assert config["MODEL"]["MASK_FORMER"]["NUM_OBJECT_QUERIES"] == 4
    tool.main(command)
    assert capsys.readouterr().out == first.partition("\n")[2]  # nothing is trained again
    with pytest.raises(InputError, match=r"seed3 was trained with other settings, .*settings\.txt"):
        tool.main([*command, "SOLVER.BASE_LR", "0.1"])


def test_what_is_there_is_printed(tool, write, tmp_path, capsys):
    finished(tmp_path / "as_it_is" / "seed4", **{"sem_seg/mIoU": 50.26, "panoptic_seg/PQ": 1.0})
    tool.main([write(), str(tmp_path), "--print"])
    assert rows_of(capsys.readouterr().out) == [
        ["as it is", "50.3", "1.0", "1"],
        ["one, only", "", "", "0"],
    ]


def test_a_run_that_fails_ends_the_table(tool, write, tmp_path):
    with pytest.raises(InputError, match=r"as it is, seed 5 ended with exit code 1; (.*) says why"):
        tool.main([write(), str(tmp_path), "--seed", "5", "SOLVER.OPTIMIZER", "NONE"])
    log = tmp_path / "as_it_is" / "seed5" / "terminal.txt"
    assert "SOLVER.OPTIMIZER" in log.read_text()


def test_a_run_that_was_killed_in_its_last_evaluation_is_not_finished(
    tool, write, tmp_path, capsys
):
    """Its weights are there, and metrics of an earlier evaluation."""
    folder = tmp_path / "as_it_is" / "seed3"
    finished(folder, **{"sem_seg/mIoU": 50.0, "panoptic_seg/PQ": 1.0})
    with (folder / "metrics.json").open("a") as file:
        file.write('\n{"iteration": 3, "total_loss": 1.0}\n')
    tool.main([write(), str(tmp_path), "--print"])
    assert rows_of(capsys.readouterr().out)[0] == ["as it is", "", "", "0"]


def test_a_run_that_still_goes_on_is_not_started_again(tool, write, tmp_path):
    folder = tmp_path / "as_it_is" / "seed3"
    folder.mkdir(parents=True)
    with (folder / "terminal.txt").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(
            InputError, match=r"as it is, seed 3 is being trained in .*seed3 already"
        ):
            tool.main([write(), str(tmp_path)])
    assert [path.name for path in folder.iterdir()] == ["terminal.txt"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); ready()"),
        (signal.SIGINT, "ready(); time.sleep(1); sys.exit(3)"),  # as the training saves
    ],
)
def test_a_training_may_save_when_the_command_is_ended(tool, tmp_path, number, code):
    log = tmp_path / "terminal.txt"
    begin = "import signal, sys, time; ready = lambda: print(flush=True)"
    program = f"{begin}; {code}; time.sleep(60)"

    def end() -> None:
        while not log.stat().st_size:
            time.sleep(0.05)
        time.sleep(0.1)
        os.kill(os.getpid(), number)

    with log.open("w") as file:
        threading.Thread(target=end).start()
        assert tool.run_to_end([sys.executable, "-c", program], file) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rows", "onne"], "--rows onne is in no row of .*: as it is, one, only"),
        (["SEED", "5"], "as it is: SEED is set for each run"),
        (["OUTPUT_DIR", "x"], "as it is: OUTPUT_DIR is set for each run"),
    ],
)
def test_wrong_options(tool, write, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        tool.main([write(), str(tmp_path), "--print", *options])


def test_a_wrong_pattern(tool, write, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main([write(), str(tmp_path), "--rows", "(b4"])
    assert "'(b4' is no regular expression (missing )" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"seeds": []}, r"seeds are \[\]; give whole numbers from 0 on"),
        ({"seeds": [0, "1"]}, r"seeds are \[0, '1'\]; give whole numbers"),
        ({"rows": {"a": None}}, "the row a is None; give its settings, or {}"),
        ({"settings": {"OUTPUT_DIR": "x"}}, "as it is: OUTPUT_DIR is set for each run"),
        ({"rows": ["a"]}, r"table\.yaml needs the part rows, a dict"),
        ({"row": {}}, r"table\.yaml has the unknown parts \['row'\]; known: config, seeds"),
        ({"rows": {"a b": {}, "a, b": {}}}, "two rows of .* would have one folder"),
        ({"columns": {"x": "sem_seg/nIoU"}}, r"as it is has no metric sem_seg/nIoU; it has "),
    ],
)
def test_wrong_tables(tool, write, tmp_path, parts, said):
    finished(tmp_path / "as_it_is" / "seed3", **{"sem_seg/mIoU": 1.0})
    with pytest.raises(InputError, match=said):
        tool.main([write(**parts), str(tmp_path), "--print"])


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "experiments").glob("*.yaml")), ids=str)
def test_our_tables_name_what_there_is(tool, path):
    """A configuration, and keys of configurations."""
    table = tool.read_table(str(path))
    assert (ROOT / table["config"]).is_file()
    settings = [table["settings"], *table["rows"].values()]
    assert {key for each in settings for key in each} <= {
        key for key, _ in leaves(get_mask_former_cfg())
    }
