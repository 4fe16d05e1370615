"""The demo from the data set to the sheet, and the sheet's layout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask_former.commands import prepare_shapes, shapes_demo
from mask_former.d2.config import load_config
from mask_former.d2.data.reading import rgb_to_id
from mask_former.demo.predictor import VisualizationDemo

SCRIPT = Path(__file__).resolve().parents[2] / "demo" / "shapes_demo.py"
TINY = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
METRICS = {
    "sem_seg/mIoU": 91.26,
    **{f"panoptic_seg/{key}": 60.0 for key in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th")},
    **{f"panoptic_seg/{key}": 98.76 for key in ("PQ_st", "SQ_st", "RQ_st")},
}


def run(output: Path, *opts: str) -> subprocess.CompletedProcess[str]:
    """The script on four training images and three held-out ones."""
    few = ["--num-train", "4", "--num-val", "3"]
    command = [sys.executable, str(SCRIPT), "--output", str(output), *few, *opts]
    return subprocess.run(command, capture_output=True, text=True)


def test_from_nothing_to_the_sheet_and_again(tmp_path: Path) -> None:
    done = run(tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last == str(tmp_path / "shapes_sheet.png")
    # Three columns of 512 pixels, three rows of 512, margins of 8, two lines of 46.
    assert Image.open(last).size == (3 * 520 + 8, 92 + 3 * 520)
    metrics = json.loads((tmp_path / "train" / "metrics.json").read_text().splitlines()[-1])
    assert f"mIoU {metrics['sem_seg/mIoU']:.1f}\n" in done.stdout
    assert re.search(r"things +\d+\.\d +\d+\.\d +\d+\.\d\n", done.stdout)
    assert "Starting training from iteration 0" in done.stdout

    record = tmp_path / "data" / "shapes" / "shapes.json"
    written = record.stat().st_mtime_ns
    failed = run(tmp_path, *TINY, "DATASETS.TRAIN", "('none',)")
    assert record.stat().st_mtime_ns == written
    assert "shapes is up to date" in failed.stdout
    assert failed.returncode == 1
    assert "data set none is not registered" in failed.stderr
    assert failed.stderr.splitlines()[-1] == (
        "error: the training ended with exit code 1; see above"
    )
    assert not Path(last).exists()  # it would not be of this run


def test_a_thing_has_the_color_of_what_it_matches(
    weights: list[str],
    pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prediction that is right looks like the truth, in whichever order it comes."""
    split = json.loads((pictures[0].parents[2] / "panoptic_val.json").read_text())
    maps = pictures[0].parents[2] / "panoptic_val"
    segments = [
        {**segment, "isthing": segment["category_id"] > 2}
        for segment in split["annotations"][0]["segments_info"]
    ]
    path = maps / split["annotations"][0]["file_name"]
    sample = {
        "file_name": str(pictures[0]),
        "pan_seg_file_name": str(path),
        "segments_info": segments,
    }
    cfg = load_config(str(shapes_demo.CONFIG), ["MODEL.DEVICE", "cpu", *weights])
    shown = VisualizationDemo(cfg)
    ids = torch.from_numpy(rgb_to_id(np.asarray(Image.open(path))).astype(np.int32))
    backwards = {"panoptic_seg": (ids, segments[::-1])}
    monkeypatch.setattr(shown, "predictor", lambda image: backwards)
    image, truth, prediction = shapes_demo.draw_row(shown, sample)
    assert image.shape == truth.shape == (512, 512, 3)
    np.testing.assert_array_equal(prediction, truth)
    assert len({segment["category_id"] for segment in segments}) < len(segments)


def test_draws_again_what_has_changed(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"

    def prepare(*flags: str) -> dict:
        few = ["--num-train", "1", "--num-val", "1"]
        shapes_demo.prepare_data(folder, shapes_demo.parse_args([*few, *flags]))
        return json.loads((folder / "shapes.json").read_text())

    assert prepare()["seed"] == 0
    assert prepare("--seed", "1")["seed"] == 1
    assert prepare("--num-val", "2")["num_images"]["val"] == 2
    (folder / "shapes.json").unlink()  # as an interrupted run leaves it
    assert prepare("--num-val", "2")["num_images"]["val"] == 2
    more = ["--num-train", "1", "--num-val", "1", "--num-classes", "20"]
    prepare_shapes.main(["--output", str(folder), *more])  # that of someone's own
    assert prepare()["num_classes"] == 7


def test_table() -> None:
    table = shapes_demo.describe(METRICS, 372.4)
    assert re.search(r"all +60\.0 +60\.0 +60\.0\n", table)
    assert re.search(r"stuff +98\.8 +98\.8 +98\.8\n", table)
    assert "mIoU 91.3\n" in table
    assert "6 min 12 s" in table


def test_layout() -> None:
    """Rows from top to bottom, columns from left to right, each pixel where it belongs."""
    rows = [[np.full((20, 150, 3), 10 * (3 * j + i), np.uint8) for i in range(3)] for j in range(2)]
    sheet = np.asarray(shapes_demo.lay_out("a title", rows))
    assert sheet.shape == (92 + 2 * 28, 8 + 3 * 158, 3)
    for j in range(2):
        for i in range(3):
            top, left = 92 + 28 * j, 8 + 158 * i
            picture = sheet[top : top + 20, left : left + 150]
            np.testing.assert_array_equal(picture, rows[j][i])
            assert (sheet[top + 20 : top + 28, left : left + 150] == 255).all()
    assert (sheet[:46] != 255).any()  # the title
    assert (sheet[46:92, :150] != 255).any()  # a column's


@pytest.mark.parametrize("script", ["demo.py", "shapes_demo.py", "../train_net.py"])
def test_waiting_threads_sleep(script: str) -> None:
    """OpenMP says so itself; where the environment names another policy, that one holds."""
    command = [sys.executable, str(SCRIPT.parent / script), "--help"]
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | given
        env["OMP_DISPLAY_ENV"] = "true"
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert re.search(rf"OMP_WAIT_POLICY ?= ?'{expected}'", done.stderr)


@pytest.mark.parametrize(
    ("opts", "said"),
    [
        (["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"], "the demo shows panoptic segments of"),
        (["DATASETS.TEST", "()"], "the demo shows panoptic segments of DATASETS.TEST"),
        (["OUTPUT_DIR", "x"], "OUTPUT_DIR is set by the demo; name another folder with --output"),
    ],
)
def test_options_that_would_leave_nothing_to_show(tmp_path: Path, opts: list[str], said: str):
    with pytest.raises(SystemExit, match=f"error: {said}"):
        shapes_demo.main(["--output", str(tmp_path), *opts])
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"a file cannot be read or written: .*file/shapes"):
        shapes_demo.main(["--output", str(tmp_path / "file")])
