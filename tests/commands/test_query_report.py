"""The report on queries, of a tiny model and of hand-made counts."""

import re

import numpy as np
import pytest
import torch

from mask_former.commands.prepare_shapes import prepare
from mask_former.d2.build.model import build_model
from mask_former.d2.checkpoint import MaskFormerCheckpointer
from mask_former.d2.config import load_config
from mask_former.d2.query_usage import GRID, Usage
from mask_former.d2.visualization.query_report import (
    place_in_words,
    query_text,
    write_query_report,
)
from mask_former.d2.weights.record import ModelRecord
from tests.small_runs import ROOT, flat

SHAPES = str(ROOT / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml")
SMALL = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 6,
    "MODEL.MASK_FORMER.DEC_LAYERS": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder / "shapes", 0, {"train": 1, "val": 3, "dev": 1})
    return folder


def save(folder, options):
    cfg = load_config(SHAPES, flat({**SMALL, **options}), device="cpu")
    torch.manual_seed(0)
    model = build_model(cfg)
    MaskFormerCheckpointer(model, str(folder), record=ModelRecord.of(cfg)).save("model_final")
    return str(folder / "model_final.pth")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Whose queries are not sure of anything, but have an object."""
    low = {"MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.0}
    return save(tmp_path_factory.mktemp("run"), low)


def test_of_a_data_set(tool, weights, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    page = tmp_path / "new" / "queries.html"
    tool.main([weights, "--data", "shapes_panoptic_val", "--output", str(page)])
    told = capsys.readouterr().out
    assert "Queries of model_final.pth on shapes_panoptic_val" in told
    assert re.search(r"one of 3 pictures, which have up to (\d+) true segments", told)
    written = page.read_text()
    assert "<h2>Places</h2>" in written
    assert "TILES" not in told + written
    names = re.findall(r"(sky|grass|water|disc|square|triangle|star) \d+%", told)
    assert names
    for name in names:
        assert name in written
    assert "http" not in written.replace("http-equiv", "")


def test_of_a_folder(tool, weights, data, tmp_path, capsys):
    folder = data / "shapes" / "images"
    page = tmp_path / "queries.html"
    tiles = ["--opts", "MODEL.MASK_FORMER.TEST.TILES", "[64, 8]"]
    tool.main([weights, "--input", str(folder), "--output", str(page), "--limit", "2", *tiles])
    told = capsys.readouterr().out
    assert re.search(r"became segments in one of 2 pictures;", told)
    for text in (told, page.read_text()):
        assert "TEST.TILES is [64, 8], but queries belong to one pass" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--input", "EMPTY"], "holds no picture"),
    ],
)
def test_what_cannot_be_asked(tool, weights, tmp_path, arguments, says):
    arguments = [str(tmp_path) if a == "EMPTY" else a for a in arguments]
    with pytest.raises(SystemExit, match=says):
        tool.main([weights, *arguments])


def test_a_model_without_queries(tool, data, tmp_path):
    per_pixel = {
        "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL.SEM_SEG_HEAD.NAME": "PerPixelBaselineHead",
        "MODEL.MASK_FORMER.VALID_MASK": False,
        "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False,
    }
    file = save(tmp_path, per_pixel)
    with pytest.raises(SystemExit, match=r"without queries, .*; give weights of a MaskFormer"):
        tool.main([file, "--input", str(data / "shapes" / "images")])


def spot(rows, columns):
    place = np.zeros((GRID, GRID))
    place[rows, columns] = 1
    return place


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (spot(slice(0, 6), slice(0, 6)), "upper left"),
        (spot(slice(18, 24), slice(0, 24)), "lower"),
        (spot(slice(8, 16), slice(18, 24)), "right"),
        (spot(slice(8, 16), slice(8, 16)), "middle"),
        (spot(slice(None), slice(None)), "everywhere"),
        (np.zeros((GRID, GRID)), ""),
    ],
)
def test_places_in_words(place, words):
    assert place_in_words(place) == words


def test_rows_are_told_most_used_first_and_names_are_escaped(tmp_path):
    usage = Usage(
        classes=np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [5, 1, 1, 1, 2]]),
        took_part=np.array([0, 1, 9]),
        kept=np.array([0, 1, 8]),
        places=np.stack([spot(slice(0, 0), slice(0, 0)), *[spot(slice(0, 6), slice(0, 6))] * 2]),
        at_once=np.array([1] * 9 + [0]),
        segments=np.array([2]),
    )
    names = ["a<b", "c", "d", "e", "f"]
    text = query_text(usage, names, "Queries")
    rows = [line.split() for line in text.splitlines() if re.match(r"\d", line)]
    assert [row[:4] for row in rows] == [
        ["2", "80%", "90%", "100%"],
        ["1", "10%", "10%", "10%"],
        ["0", "0%", "0%", "0%"],
    ]
    assert "a<b 50%, f 20%, c 10%, d 10%, 1 others  upper left" in text
    page = tmp_path / "page.html"
    write_query_report(usage, names, "<Queries>", page)
    written = page.read_text()
    assert "<h1>&lt;Queries&gt;</h1>" in written
    assert "a<b" not in written
    assert written.count("<figure>") == 2  # query 0 never had an object
    assert "<td>2</td><td>0</td><td>1</td>" in written  # one picture with two true segments


def test_where_the_page_cannot_be_is_told_before_the_work(tool, tmp_path):
    command = ["none.pth", "--input", str(tmp_path), "--output"]
    with pytest.raises(SystemExit, match=r"error: --output .* is a folder; name the page"):
        tool.main([*command, str(tmp_path)])
    with pytest.raises(SystemExit, match="the folder of --output is '/proc/x', where no file"):
        tool.main([*command, "/proc/x/queries.html"])
