"""Curves of made-up runs."""

import json
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mask_former.commands import plot_metrics


@pytest.fixture
def run(tmp_path):
    """Metrics as Detectron2 writes them: not every line has every key."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    lines = [
        {"iteration": 19, "total_loss": 3.0},
        {"iteration": 39, "total_loss": 2.0, "sem_seg/mIoU": 10.0},
        {"iteration": 59, "total_loss": 1.5, "sem_seg/mIoU": 40.0},
    ]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_curve_has_the_lines_that_know_the_metric(run):
    assert plot_metrics.read_curve(run, "sem_seg/mIoU") == ([39, 59], [10.0, 40.0])
    figure = plot_metrics.draw({"tiny": plot_metrics.read_curve(run, "total_loss")}, "total_loss")
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[19, 3.0], [39, 2.0], [59, 1.5]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["tiny"]


def test_a_line_that_a_kill_has_torn_is_left_out(run):
    whole = plot_metrics.read_curve(run, "total_loss")
    with (run / "metrics.json").open("a") as file:
        file.write('\n{"iteration": 79, "tot')
    assert plot_metrics.read_curve(run, "total_loss") == whole


def test_picture_is_written(run, tmp_path, capsys):
    output = tmp_path / "curves.png"
    plot_metrics.main([str(run), "--metric", "sem_seg/mIoU", "--output", str(output)])
    assert capsys.readouterr().out.strip() == str(output)
    assert Image.open(output).width > 500


@pytest.mark.parametrize(
    ("folder", "metric", "message"),
    [("gone", "total_loss", "gone/metrics.json does not exist"), ("tiny", "mAP", "has no mAP")],
)
def test_what_is_missing_is_named(run, tmp_path, folder, metric, message):
    with pytest.raises(SystemExit, match=message):
        plot_metrics.main(
            [str(tmp_path / folder), "--metric", metric, "--output", str(tmp_path / "x.png")]
        )


def test_runs_of_the_same_name_have_a_curve_each(run, tmp_path, monkeypatch):
    for folder in ("a/run", "b/run", "b/other"):
        shutil.copytree(run, tmp_path / folder)
    drawn = []
    monkeypatch.setattr(plot_metrics, "draw", lambda *given: drawn.append(given) or Figure())
    monkeypatch.chdir(tmp_path / "b")
    runs = ["../a/run", "run", "other"]
    plot_metrics.main([*runs, "--output", str(tmp_path / "x.png")])
    ((curves, _),) = drawn
    assert list(curves) == ["a/run", "b/run", "b/other"]
    assert plot_metrics.labels([Path("."), Path("other")]) == ["b", "other"]


def test_a_run_that_is_named_twice_is_refused(run, tmp_path):
    with pytest.raises(SystemExit, match="the same folder is named twice"):
        plot_metrics.main([str(run), f"{run}/../tiny", "--output", str(tmp_path / "x.png")])


@pytest.mark.parametrize(
    "line", ["{", "[1]", "5", '{"total_loss": 1}', "\\xff", '{"iteration": null}']
)
def test_what_no_training_writes(run, tmp_path, line):
    (run / "metrics.json").write_text(line.replace("null}", 'null, "total_loss": 1}'))
    with pytest.raises(
        SystemExit, match=r"error: .*tiny/metrics\.json is not what a training writ"
    ):
        plot_metrics.main([str(run), "--output", str(tmp_path / "x.png")])


@pytest.mark.parametrize("output", ["none/x.png", "x.xyz", "tiny"])
def test_a_picture_that_cannot_be_written(run, tmp_path, output):
    with pytest.raises(SystemExit, match=f"error: .*{output}"):
        plot_metrics.main([str(run), "--output", str(tmp_path / output)])


def test_a_name_without_a_suffix_would_get_another_one(run, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*curves has no suffix, such as \.png"):
        plot_metrics.main([str(run), "--output", str(tmp_path / "curves")])
    assert not list(tmp_path.glob("curves*"))
