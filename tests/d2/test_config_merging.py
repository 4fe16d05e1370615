"""YAML files and the command line: what is understood, and what is said of what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.config_merging import merge_opts, merge_yaml
from mask_former.d2.errors import InputError

SCALES = '!!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 21)]"]'
MS512 = (256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024)

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a text file and returns its path."""

    def write_text(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write_text


def load(path: str | Path) -> CfgNode:
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, str(path))
    return cfg


def refusal(path: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    return str(caught.value)


def test_list_of_scales(write):
    path = write("a.yaml", f"VERSION: 2\nINPUT:\n  MIN_SIZE_TRAIN: {SCALES}\n")
    assert load(path).INPUT.MIN_SIZE_TRAIN == MS512


def test_list_of_scales_in_a_base(write):
    write("base.yaml", f"VERSION: 2\nINPUT:\n  MIN_SIZE_TRAIN: {SCALES}\n  MIN_SIZE_TEST: 7\n")
    cfg = load(write("a.yaml", "_BASE_: base.yaml\nINPUT:\n  MIN_SIZE_TEST: 8\n"))
    assert cfg.INPUT.MIN_SIZE_TRAIN == MS512
    assert cfg.INPUT.MIN_SIZE_TEST == 8


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:eval [\"open('{victim}', 'w')\"]",
        '!!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 21)] + [1]"]',
        '!!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 99999)]"]',
        '!!python/object/apply:eval ["[1]", {{}}]',
        "!!python/object/apply:eval []",
        "!!python/object/apply:eval '[1]'",
        "!!python/object/apply:os.system ['touch {victim}']",
        "!!python/name:os.system",
    ],
)
def test_no_other_code(write, tmp_path, value):
    victim = tmp_path / "victim"
    content = f"VERSION: 2\nINPUT:\n  MIN_SIZE_TRAIN: {value.format(victim=victim)}\n"
    write("base.yaml", content)
    message = refusal(write("a.yaml", "_BASE_: base.yaml\n"))
    assert "base.yaml, line 3" in message
    assert value.split()[0].replace("!!", "tag:yaml.org,2002:") in message
    assert not victim.exists()


def test_values_as_yacs_reads_them(write):
    # YAML 1.1 takes 1e-6 and a tuple for strings; yacs makes numbers of them.
    text = "VERSION: 2\nSOLVER:\n  WARMUP_FACTOR: 1e-6\nINPUT:\n  CROP:\n    SIZE: (5, 6)\n"
    cfg = load(write("a.yaml", text))
    assert cfg.SOLVER.WARMUP_FACTOR == 1e-6
    assert cfg.INPUT.CROP.SIZE == [5, 6]


def test_configuration_of_an_older_version(write):
    # Version 1 had MODEL.WEIGHT; Detectron2 upgrades it.
    cfg = load(write("a.yaml", "VERSION: 1\nMODEL:\n  WEIGHT: w.pkl\n"))
    assert cfg.MODEL.WEIGHTS == "w.pkl"
    assert cfg.VERSION == 2


def test_configuration_stays_of_its_class(write):
    cfg = load(write("a.yaml", "VERSION: 2\n"))
    assert type(cfg.MODEL.SWIN) is CfgNode
    assert cfg == get_mask_former_cfg()


def test_unknown_key(write):
    text = "VERSION: 2\nMODEL:\n  MASK_FORMER:\n    DICE_WEIGTH: 5.0\n"
    message = refusal(write("a.yaml", text))
    assert "a.yaml: unknown configuration key MODEL.MASK_FORMER.DICE_WEIGTH" in message
    assert "did you mean MODEL.MASK_FORMER.DICE_WEIGHT" in message


def test_unknown_key_in_a_base(write):
    write("base.yaml", "VERSION: 2\nMODLE: {}\n")
    message = refusal(write("a.yaml", "_BASE_: base.yaml\n"))
    assert "base.yaml: unknown configuration key MODLE; did you mean MODEL" in message


def test_wrong_type(write):
    write("base.yaml", "VERSION: 2\nSOLVER:\n  BASE_LR: fast\n")
    message = refusal(write("a.yaml", "_BASE_: base.yaml\n"))
    assert "base.yaml" in message
    assert "fast" in message
    assert "SOLVER.BASE_LR" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A: [1\n", "line 2: not valid YAML"),
        ("", "holds None"),
        ("- 1\n", "holds [1]"),
        ("VERSION: 3\n", "Cannot merge a v3 config into a v2 config"),
        ("_BASE_: missing.yaml\n", "missing.yaml"),
    ],
)
def test_bad_files(write, text, expected):
    assert expected in refusal(write("a.yaml", text))


def test_missing_file(tmp_path):
    message = refusal(tmp_path / "none.yaml")
    assert str(tmp_path / "none.yaml") in message
    assert "--config-file" in message


def test_file_that_is_no_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xd8\xff")
    assert "cannot read the configuration" in refusal(tmp_path / "a.yaml")


def test_opts():
    cfg = get_mask_former_cfg()
    merge_opts(cfg, ["MODEL.MASK_FORMER.DICE_WEIGHT", "5.0", "INPUT.CROP.SIZE", "(3, 4)"])
    assert cfg.MODEL.MASK_FORMER.DICE_WEIGHT == 5.0
    assert cfg.INPUT.CROP.SIZE == [3, 4]


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (["SOLVER.DICE_WEIGHT", "5.0"], "did you mean MODEL.MASK_FORMER.DICE_WEIGHT"),
        (["SOLVER.BASE_LR.X", "5.0"], "unknown configuration key SOLVER.BASE_LR.X"),
        (["xyzzy", "5.0"], "unknown configuration key xyzzy"),
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR"),
        (["SOLVER.BASE_LR"], "'SOLVER.BASE_LR' has no partner"),
    ],
)
def test_bad_opts(opts, expected):
    with pytest.raises(InputError) as caught:
        merge_opts(get_mask_former_cfg(), opts)
    assert str(caught.value).startswith("command line: ")
    assert expected in str(caught.value)
