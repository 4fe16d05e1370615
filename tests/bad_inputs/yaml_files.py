"""Files of configurations: no YAML, YAML that is none of ours, and files made to do harm."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mask_former.d2.config import load_config
from tests.bad_inputs.case import Case

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{this}: &{this} [{','.join([f'*{before}'] * 9)}]\n"
    for before, this in zip("abcdefghij", "bcdefghijk", strict=True)
)
NESTED = "[" * 5000 + "]" * 5000
WRONG: dict[str, str | bytes] = {
    "empty": "",
    "comment": "# nothing\n",
    "null": "null\n",
    "list": "- 1\n- 2\n",
    "scalar": "5\n",
    "text": "just a text\n",
    "two documents": "VERSION: 2\n---\nVERSION: 2\n",
    "alias bomb": BOMB,
    "alias bomb of maps": "a: &a {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{p: *a{i - 1 or ''}, q: *a{i - 1 or ''}}}\n" for i in range(1, 40)),
    "recursive list": "SOLVER: &a [*a]\n",
    "recursive map": "SOLVER: &a {STEPS: *a}\n",
    "merge of itself": "SOLVER: &a {<<: *a}\n",
    "unknown alias": "SOLVER: *nothing\n",
    "duplicate section": "SOLVER: {MAX_ITER: 5}\nINPUT: {}\nSOLVER: {BASE_LR: 0.1}\n",
    "duplicate key": "SOLVER:\n  MAX_ITER: 5\n  MAX_ITER: 6\n",
    "base of itself": "_BASE_: base_of_itself.yaml\n",
    "base null": "_BASE_: null\n",
    "base number": "_BASE_: 5\n",
    "base map": "_BASE_: {a: 1}\n",
    "base empty list": "_BASE_: []\n",
    "base empty": "_BASE_: ''\n",
    "base list with null": "_BASE_: [null]\n",
    "base missing": "_BASE_: nowhere.yaml\n",
    "base folder": "_BASE_: .\n",
    "base NUL": '_BASE_: "a\\0b"\n',
    "base scheme": "_BASE_: s3://bucket/base.yaml\n",
    "key number": "1: 2\n",
    "key null": "null: 2\n",
    "key bool": "SOLVER: {yes: 2}\n",
    "key list": "? [1, 2]\n: 3\n",
    "key map": "? {a: 1}\n: 3\n",
    "key date": "2020-01-01: 3\n",
    "key empty": "'': 3\n",
    "control character": "SOLVER: \x07\n",
    "NUL": "SOLVER: \0\n",
    "tab": "SOLVER:\n\tMAX_ITER: 5\n",
    "deep list": f"SOLVER: {NESTED}\n",
    "deep map": "".join(f"{' ' * i}a:\n" for i in range(300)),
    "deep text": f"SOLVER: {{BASE_LR: '{NESTED}'}}\n",
    "minus signs": f"SOLVER: {{BASE_LR: '{'-' * 9000}1'}}\n",
    "list as key in a text": "SOLVER: {BASE_LR: '{[]: 1}'}\n",
    "wrong value and wrong key": f"SOLVER: {{BASE_LR: '{'-' * 9000}1', MAX: 5}}\n",
    "value merged": "SOLVER: {<<: [{BASE_LR: fast}]}\n",
    "section number": "SOLVER: 5\n",
    "section list": "SOLVER: [1]\n",
    "section null": "SOLVER:\n",
    "section text": "MODEL: MaskFormer\n",
    "inner section": "MODEL: {MASK_FORMER: {TEST: True}}\n",
    "value a section": "SOLVER: {BASE_LR: {A: 1}}\n",
    "dotted key": "MODEL.WEIGHTS: x.pkl\n",
    "unknown section": "MODLE: {}\n",
    "unknown key": "MODEL: {MASK_FORMER: {DICE_WEIGTH: 5.0}}\n",
    "lower case": "solver: {max_iter: 5}\n",
    "version text": "VERSION: new\n",
    "version 3": "VERSION: 3\n",
    "version 0": "VERSION: 0\n",
    "version null": "VERSION:\n",
    "version bool": "VERSION: true\n",
    "nan": "SOLVER: {BASE_LR: .nan}\n",
    "inf": "SOLVER: {BASE_LR: .inf}\n",
    "nan of a foreign key": "MODEL: {RPN: {NMS_THRESH: .nan}}\n",
    "digits": f"SOLVER: {{MAX_ITER: {'9' * 5000}}}\n",
    "large": "SOLVER: {MAX_ITER: 99999999999999999999}\n",
    "exponent": "SOLVER: {BASE_LR: 1e999}\n",
    "text for a number": "SOLVER: {BASE_LR: fast}\n",
    "fraction": "SOLVER: {MAX_ITER: 1.5}\n",
    "number for a text": "OUTPUT_DIR: 5\n",
    "number for a list": "INPUT: {MIN_SIZE_TRAIN: 512}\n",
    "date": "SOLVER: {STEPS: [2020-01-01]}\n",
    "set": "SOLVER: {STEPS: !!set {a, b}}\n",
    "bytes": "OUTPUT_DIR: !!binary aGVsbG8=\n",
    "ordered map": "SOLVER: !!omap [MAX_ITER: 5]\n",
    "python name": "OUTPUT_DIR: !!python/name:os.system\n",
    "python call": "OUTPUT_DIR: !!python/object/apply:os.system ['true']\n",
    "python expression": 'OUTPUT_DIR: !!python/object/apply:eval ["1 + 1"]\n',
    "unknown tag": "OUTPUT_DIR: !mine x\n",
    "bad directive": "%YAML 9.9\n---\nVERSION: 2\n",
    "open bracket": "SOLVER: [1\n",
    "open quote": "OUTPUT_DIR: 'x\n",
    "bad indentation": "SOLVER:\n    MAX_ITER: 5\n  BASE_LR: 0.1\n",
    "bad escape": 'OUTPUT_DIR: "\\q"\n',
    "surrogate": 'OUTPUT_DIR: "\\ud800"\n',
    "latin-1": "OUTPUT_DIR: sch\xf6n\n".encode("latin-1"),
    "utf-16": "VERSION: 2\n".encode("utf-16"),
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "zip": b"PK\x03\x04" + bytes(60),
    "zeros": bytes(1000),
    "long": "# " + "x" * 2**21,
    "many values": f"SOLVER: {{STEPS: [{','.join(map(str, range(100_000)))}]}}\n",
    "html": "<!DOCTYPE html><html><body>404: not found</body></html>",
    "json with a comment": '{"SOLVER": 1 /* one */}',
}
RIGHT = {
    "json": '{"SOLVER": {"MAX_ITER": 5}}',
    "whole number for a fraction": "MODEL: {MASK_FORMER: {DROPOUT: 0}}\n",
    "anchors": "SOLVER: {STEPS: &a [1, 2]}\nINPUT: {MIN_SIZE_TRAIN: *a}\n",
    "merge key": "SOLVER: {AMP: &a {ENABLED: false}}\n_BASE_: merged.yaml\n",
    "scales": "INPUT:\n  MIN_SIZE_TRAIN: !!python/object/apply:eval "
    '["[int(x * 0.1 * 512) for x in range(5, 21)]"]\n',
    "byte order mark": "\ufeffVERSION: 2\n",
    "windows": "VERSION: 2\r\nSOLVER:\r\n  MAX_ITER: 5\r\n",
    "text that looks like a date": "OUTPUT_DIR: 2020-01-01\n",
    "old version": "VERSION: 1\nMODEL: {WEIGHT: w.pkl}\n",
    "two bases": "_BASE_: [merged.yaml, merged.yaml]\n",
}


def cases(folder: Path) -> Iterator[Case]:
    """Each file, a ring and a tree of base files, and paths that are no files."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "merged.yaml").write_text("SOLVER: {<<: {MAX_ITER: 5}}\n")
    for contents, is_right in ((WRONG, False), (RIGHT, True)):
        for name, content in contents.items():
            path = folder / f"{name.replace(' ', '_')}.yaml"
            data = (
                content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
            )
            path.write_bytes(data)
            yield _case(name, path, is_right)
    (folder / "ring_a.yaml").write_text("_BASE_: ring_b.yaml\n")
    (folder / "ring_b.yaml").write_text("_BASE_: ring_a.yaml\n")
    yield _case("ring of base files", folder / "ring_a.yaml")
    for i in range(40):
        (folder / f"tree{i}.yaml").write_text(f"_BASE_: [tree{i + 1}.yaml, tree{i + 1}.yaml]\n")
    (folder / "tree40.yaml").write_text("VERSION: 2\n")
    yield _case("tree of base files", folder / "tree0.yaml")
    (folder / "base.yaml").write_text("SOLVER: 5\n")
    (folder / "heir.yaml").write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 5}\n")
    yield _case("section over a value", folder / "heir.yaml")
    yield _case("folder", folder)
    yield _case("missing", folder / "missing.yaml")
    yield _case("device", Path("/dev/zero"))
    os.mkfifo(folder / "pipe.yaml")
    yield _case("pipe", folder / "pipe.yaml")
    yield Case("YAML file", "empty path", partial(load_config, ""))


def _case(name: str, path: Path, is_right: bool = False) -> Case:
    return Case("YAML file", name, partial(load_config, str(path), device="cpu"), is_right)
