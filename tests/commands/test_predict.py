"""The command line of many pictures."""

import json

import pytest
import torch

from tests.d2.prediction.conftest import PANOPTIC, photos, tiny_weights  # noqa: F401
from tests.small_runs import flat

OPTS = ["--opts", *flat(PANOPTIC)]


def test_from_pictures_to_a_page(tool, tiny_weights, photos, tmp_path, capsys):  # noqa: F811
    output = tmp_path / "out"
    command = [tiny_weights, str(photos), str(output), "--format", "label", "coco", "--gallery"]
    with pytest.raises(SystemExit) as ended:
        tool.main([*command, "--workers", "1", *OPTS])
    lines = str(ended.value.code).splitlines()  # a text is printed, with exit code 1
    assert lines[0] == "1 of 7 pictures could not be read:"
    assert lines[1].startswith("  sub/005.png: image ")
    assert f"{output}: 7 pictures in " in capsys.readouterr().out
    assert (output / "gallery.html").is_file()
    (photos / "sub" / "005.png").unlink()
    tool.main([*command, "--workers", "1", *OPTS])
    assert len((output / "results.jsonl").read_text().splitlines()) == 6
    assert len(json.loads((output / "coco.json").read_text())["images"]) == 6


def test_shards_and_merge(tool, tiny_weights, photos, tmp_path):  # noqa: F811
    (photos / "sub" / "005.png").unlink()
    for i in range(2):
        tool.main([tiny_weights, str(photos), str(tmp_path / "out"), "--shard", f"{i}/2", *OPTS])
    tool.main(["--merge", str(tmp_path / "out")])
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 6
    assert len(list((tmp_path / "out" / "label").rglob("*.png"))) == 6


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["w", "i"], "give WEIGHTS, INPUT and OUTPUT, or --merge OUTPUT alone"),
        (["w", "i", "o", "--merge", "o"], "give WEIGHTS, INPUT and OUTPUT"),
        (["w", "i", "o", "--shard", "4/4"], "'4/4' is not I/N with I from 0 to N-1"),
        (["w", "i", "o", "--ray", "--shard", "0/4"], "--ray divides the list by itself"),
        (["w", "i", "o", "--workers", "0"], "'0' is not a whole number >= 1"),
        (["w", "i", "o", "--min-score", "50"], "'50' is not a number from 0 to 1"),
        (["w", "i", "o", "--format", "jpg"], "invalid choice: 'jpg'"),
    ],
)
def test_arguments_that_are_refused(tool, argv, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(argv)
    assert message in capsys.readouterr().err


def test_one_sentence_about_bad_input(tool, tiny_weights, tmp_path):  # noqa: F811
    nothing = [str(tmp_path / "none"), str(tmp_path / "out"), *OPTS]
    with pytest.raises(SystemExit, match=r"^error: .*has no picture"):
        tool.main([tiny_weights, *nothing])
    torch.save({"model": {}}, tmp_path / "bare.pth")
    with pytest.raises(SystemExit, match=r"^error: .*does not carry its configuration"):
        tool.main([str(tmp_path / "bare.pth"), *nothing])
    with pytest.raises(SystemExit, match=r"^error: .*those there are: none"):
        tool.main(["--merge", str(tmp_path)])
