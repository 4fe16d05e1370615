#!/usr/bin/env python
"""Writes the page of all keys from the table that configurations are checked by.

``python tools/document_keys.py docs/KEYS.md``
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

# First: it says in one sentence what is missing.
import mask_former.d2  # noqa: F401  # isort: skip
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.configuring.checks import leaves
from mask_former.d2.configuring.keys import KEYS
from mask_former.d2.data.preparing import telling_errors

INTRODUCTION = """\
# Keys of a configuration

All keys that a run reads, written by `tools/document_keys.py` from the table
(`mask_former/d2/configuring/keys.py`) that every configuration is checked by before anything is
built. The last column says whose a key is: of the paper (*Per-Pixel Classification is Not All You
Need for Semantic Segmentation*), with the section that explains it, of the code that was published
with it, of Detectron2, or ours, whose defaults change nothing of what was published. Detectron2
and DeepLab have further keys, which nothing here reads.
"""


def page() -> str:
    """The whole page, in Markdown."""
    return "\n".join([INTRODUCTION, *lines()])


def lines() -> Iterator[str]:
    """A table for each section."""
    defaults = dict(leaves(get_mask_former_cfg()))
    for section, keys in groupby(KEYS, key=lambda key: key.rpartition(".")[0]):
        yield f"## {section or 'Without a section'}\n"
        yield "| key | default | allowed | meaning | from |"
        yield "| --- | --- | --- | --- | --- |"
        for key in keys:
            rule, meaning, source = KEYS[key]
            name = key.rpartition(".")[2]
            yield f"| `{name}` | {code(defaults[key])} | {rule.allowed} | {meaning} | {source} |"
        yield ""


def code(value: Any) -> str:
    """A value as a cell has it."""
    return f"`{value!r}`" if value != "" else "empty"


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page, and says where."""
    parser = argparse.ArgumentParser(description="Write the page of all keys.")
    parser.add_argument("output", type=Path, help="file to write")
    args = parser.parse_args(argv)
    with telling_errors():
        args.output.write_text(page(), encoding="utf-8")
    print(args.output)


if __name__ == "__main__":
    main()
