"""The command line that describes a folder; what it finds is tested beside the readers."""

import pytest


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_a_number_of_processes_that_is_none(tool, tmp_path, number, capsys):
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path), "--workers", number])
    assert f"argument --workers: {number!r} is not a whole number >= 1" in capsys.readouterr().err


def test_one_sentence_about_bad_input(tool, tmp_path):
    output = str(tmp_path / "described")
    with pytest.raises(SystemExit, match=r"^error: .*none") as ended:
        tool.main([str(tmp_path / "none"), "--output", output, "--from-scratch"])
    assert "\n" not in str(ended.value)
