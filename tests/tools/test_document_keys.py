"""The page of keys."""

from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "KEYS.md"


def test_the_page_is_current(tool, tmp_path, capsys):
    written = tmp_path / "KEYS.md"
    tool.main([str(written)])
    assert capsys.readouterr().out.strip() == str(written)
    assert written.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), (
        "run `python tools/document_keys.py docs/KEYS.md`"
    )


def test_the_page_tells_default_range_and_source():
    row = "| `MASK_WEIGHT` | `20.0` | a number of 0 or more |"
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if row in line]
    assert line.endswith("| paper 4.1 |")


def test_a_place_that_cannot_be_written(tool, tmp_path):
    with pytest.raises(SystemExit, match=r"error: a file cannot be read or written: .*Is a direct"):
        tool.main([str(tmp_path)])
