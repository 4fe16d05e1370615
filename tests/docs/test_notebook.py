"""The notebook runs as it stands, and has been committed with what it gives."""

import base64
import json
import re
import struct
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "how_maskformer_works.ipynb"


def outputs_of(notebook):
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [output for cell in cells for output in cell["outputs"]]


def printed(notebook):
    return ["".join(o["text"]) for o in outputs_of(notebook) if o["output_type"] == "stream"]


def pictures(notebook):
    """Width and height of each."""
    data = [
        o["data"]["image/png"] for o in outputs_of(notebook) if "image/png" in o.get("data", {})
    ]
    return [struct.unpack(">II", base64.b64decode(content)[16:24]) for content in data]


def test_it_was_committed_with_what_it_gives():
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1)), "run from top to bottom, once"
    assert len(pictures(notebook)) == 8
    assert not [o for o in outputs_of(notebook) if o.get("name") == "stderr"]
    assert NOTEBOOK.stat().st_size < 1_500_000


def words_and_numbers(texts):
    """Apart, as another processor may count a pixel on the border of a mask to its neighbour."""
    parts = re.split(r"(\d+(?:\.\d+)?)", "\n".join(texts))
    return parts[::2], [float(number) for number in parts[1::2]]


def test_it_runs_and_its_pictures_and_its_words_before_the_training_are_the_same():
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs")
    before = nbformat.read(NOTEBOOK, as_version=4)
    again = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(DOCS)}}
    nbclient.NotebookClient(again, timeout=540, resources=resources).execute()
    assert len(pictures(again)) == len(pictures(before))
    # What is printed of the training is another one's on another processor.
    words, numbers = words_and_numbers(printed(again)[:-2])
    expected_words, expected_numbers = words_and_numbers(printed(before)[:-2])
    assert [word.split() for word in words] == [word.split() for word in expected_words]
    assert numbers == pytest.approx(expected_numbers, rel=0.02, abs=0.02)
