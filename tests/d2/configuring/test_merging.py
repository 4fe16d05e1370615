"""YAML files and the command line: what is understood, and what is said of what is wrong."""

import resource
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.configuring.merging import merge_opts, merge_yaml
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
    assert "a.yaml, line 4: unknown configuration key MODEL.MASK_FORMER.DICE_WEIGTH" in message
    assert "did you mean MODEL.MASK_FORMER.DICE_WEIGHT" in message


def test_unknown_key_in_a_base(write):
    write("base.yaml", "VERSION: 2\nMODLE: {}\n")
    message = refusal(write("a.yaml", "_BASE_: base.yaml\n"))
    assert "base.yaml, line 2: unknown configuration key MODLE; did you mean MODEL" in message


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
        ("", "a.yaml is empty"),
        ("- 1\n", "holds [1]"),
        ("VERSION: 3\n", "a.yaml: VERSION is 3; give 2"),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SOLVER: {MAX_ITER: 1}\nINPUT: {}\nSOLVER: {}\n", "line 3: the key 'SOLVER' stands twice"),
        ("SOLVER:\n  5: 6\n", "line 2: a key is '5', no text"),
        ("VERSION: 2\n? [1]\n: 2\n", "line 2: a key is a sequence, no text"),
        ("A: &a [x]\nB: &b\n  - *b\n", "line 3: an alias is of what it stands in"),
        ("_BASE_:\n", "line 1: _BASE_ is None; give the path of a YAML file"),
        ("_BASE_: a.yaml\n", "itself based on this file"),
        ("A: \x07\n", "not valid YAML: unacceptable character #x0007"),
        (f"A: {'[' * 99}{']' * 99}\n", "line 1: values are nested more than 20 deep"),
        ("SOLVER: 5\n", "line 1: SOLVER is 5, but it is a section; give one of its keys, such as"),
        ("MODEL.WEIGHTS: x\n", "line 1: MODEL.WEIGHTS is written as one name; write WEIGHTS below"),
        (
            "\nMODEL: {ROI_HEADS: {NAME: 5}}\n",
            "line 2: MODEL.ROI_HEADS.NAME is 5; give a str, such",
        ),
        ("X: &x {BASE_LR: a}\nSOLVER: {<<: [*x]}\n", "line 1: unknown configuration key X"),
        ("_BASE_: 5\n<<: [{_BASE_: 6}]\n", "line 1: _BASE_ is 5"),
        ("SOLVER:\n  <<: [{BASE_LR: fast}]\n", "line 2: SOLVER.BASE_LR is 'fast'"),
        ("A B: 5\n", "unknown configuration key 'A B'; docs/KEYS.md lists those that are read"),
        (f"A: {'9' * 9999}\n", "not valid YAML: a number has thousands of digits"),
        ("VERSION: 1\nMODEL: {WEIGHT: 5}\n", "a.yaml: Type mismatch"),
    ],
)
def test_one_sentence_with_the_line(write, text, expected):
    message = refusal(write("a.yaml", text))
    assert expected in message
    assert "a.yaml" in message
    assert "\n" not in message


def test_an_alias_bomb_takes_no_time_and_no_memory(write):
    pairs = pairwise("abcdefghi")
    levels = [f"{this}: &{this} [{','.join([f'*{last}'] * 9)}]" for last, this in pairs]
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(levels)
    assert len(text) < 810
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "line 5: its aliases are of more than 30000 values" in refusal(write("a.yaml", text))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_aliases_merge_keys_and_dates(write):
    text = "SOLVER: {STEPS: &s [1, 2]}\nTEST: {AUG: {<<: {MAX_SIZE: 9}, MIN_SIZES: *s}}\n"
    cfg = load(write("a.yaml", f"{text}OUTPUT_DIR: 2020-01-01\n"))
    assert (cfg.SOLVER.STEPS, cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE) == ((1, 2), (1, 2), 9)
    assert cfg.OUTPUT_DIR == "2020-01-01"


def test_whole_numbers_where_a_fraction_is_the_default(write):
    cfg = load(write("a.yaml", "MODEL: {MASK_FORMER: {DROPOUT: 0}}\n"))
    merge_opts(cfg, ["MODEL.MASK_FORMER.MASK_WEIGHT", "5", "SOLVER.BASE_LR", 1])
    options = cfg.MODEL.MASK_FORMER
    values = (options.DROPOUT, options.MASK_WEIGHT, cfg.SOLVER.BASE_LR)
    assert values == (0.0, 5.0, 1.0)
    assert {type(value) for value in values} == {float}


def test_base_files_beyond_measure(write):
    for i in range(40):
        write(f"{i}.yaml", f"_BASE_: [{i + 1}.yaml, {i + 1}.yaml]\n")
    write("40.yaml", "VERSION: 2\n")
    assert "a.yaml is based on more than 50 files" in refusal(write("a.yaml", "_BASE_: 0.yaml\n"))


def test_two_files_may_share_a_base(write):
    write("c.yaml", "SOLVER: {MAX_ITER: 7}\n")
    write("b.yaml", "_BASE_: c.yaml\n")
    assert load(write("a.yaml", "_BASE_: [b.yaml, c.yaml]\n")).SOLVER.MAX_ITER == 7


def test_a_section_over_a_value_of_the_base(write):
    write("b.yaml", "SOLVER: 5\n")
    assert "b.yaml, line 1: SOLVER is 5, but" in refusal(
        write("a.yaml", "_BASE_: b.yaml\nSOLVER: {MAX_ITER: 5}\n")
    )


@pytest.mark.parametrize("value", ["-" * 9000 + "1", "{[]: 1}", "(" * 150, "9" * 5000, "1j"])
def test_texts_that_python_cannot_read(write, value):
    expected = "SOLVER.BASE_LR is .*; give a number of 0 or more"
    with pytest.raises(InputError, match=f"^command line: {expected}"):
        merge_opts(get_mask_former_cfg(), ["SOLVER.BASE_LR", value])
    with pytest.raises(InputError, match=f"a.yaml, line 1: {expected}"):
        load(write("a.yaml", f"SOLVER: {{BASE_LR: '{value}'}}\n"))
