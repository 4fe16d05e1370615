"""The journal survives kills, and belongs to one process and one run."""

import json

import pytest

from mask_former.d2.errors import InputError
from mask_former.d2.prediction.journal import WHOLE, Journal, Part, Rows, keep_settings, parts_in


def test_parts_are_the_list():
    items = list(range(11))
    assert [x for i in range(4) for x in Part(i, 4).of(items)] == items
    assert {len(Part(i, 4).of(items)) for i in range(4)} == {2, 3}
    assert WHOLE.of(items) == items
    assert Part.parse("3/4") == Part(3, 4)
    for wrong in ("4/4", "-1/4", "1", "a/b", "0/0"):
        with pytest.raises(ValueError, match=r"unpack|invalid|\d"):
            Part.parse(wrong)


def test_parts_are_known_by_their_files(tmp_path):
    for part in (Part(1, 3), Part(0, 3), WHOLE):
        part.journal(tmp_path).touch()
    assert parts_in(tmp_path) == [Part(0, 3), Part(1, 3)]
    assert Part(1, 3).journal(tmp_path).name == "results.1-of-3.jsonl"
    assert WHOLE.journal(tmp_path).name == "results.jsonl"


def test_a_line_that_was_cut_and_failures_are_taken_out(tmp_path):
    path = tmp_path / "results.jsonl"
    journal = Journal(path)
    journal.append({"name": "b"})
    journal.append({"name": "c", "error": "bad"})
    journal.append({"name": "a"})
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"name": "d')
    journal = Journal(path)
    assert journal.done == {"a", "b"}
    journal.append({"name": "c"})
    journal.close()
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["b", "a", "c"]
    rows = Rows([path])
    assert not rows.in_order
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert [row["name"] for row in rows] == ["a", "b", "c"]  # once more
    assert len(rows) == 3


def test_a_good_journal_stays_as_it_is(tmp_path):
    path = tmp_path / "results.jsonl"
    for name in ("a", "b"):
        journal = Journal(path)
        inode = path.stat().st_ino
        journal.append({"name": name})
        journal.close()
    assert path.stat().st_ino == inode
    assert Rows([path]).in_order


def test_one_process_at_a_time(tmp_path):
    journal = Journal(tmp_path / "results.jsonl")
    with pytest.raises(InputError, match="another process is writing"):
        Journal(tmp_path / "results.jsonl")
    journal.close()
    Journal(tmp_path / "results.jsonl").close()


def test_settings_must_stay(tmp_path):
    settings = {"weights": "a.pth", "formats": ["label"], "pictures": 10}
    keep_settings(tmp_path, WHOLE, settings)
    keep_settings(tmp_path, WHOLE, {**settings, "pictures": 12})  # there are more by now
    with pytest.raises(InputError, match=r"whose formats was \['label'\], not \['coco'\]"):
        keep_settings(tmp_path, WHOLE, {**settings, "formats": ["coco"]})
    with pytest.raises(InputError, match="whose pictures was 12, not 13"):
        keep_settings(tmp_path, Part(0, 2), {**settings, "pictures": 13})
    keep_settings(tmp_path, Part(0, 2), {**settings, "pictures": 12})
    assert (tmp_path / "settings.0-of-2.json").is_file()
