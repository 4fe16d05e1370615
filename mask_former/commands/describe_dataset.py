#!/usr/bin/env python
r"""Describes a folder of your own pictures, reads all of it, and fills a configuration.

    python tools/describe_dataset.py FOLDER [--output DIR] [--config-file BASE] [KEY VALUE ...]

DIR then holds dataset.yaml (what the data are), config.yaml (how to train on them, each number with
its reason), and report.html (what the data hold and what is wrong with them). If anything is wrong
that must be mended, the exit code is 1 and there is no config.yaml.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# First: it says in one sentence what is missing.
import mask_former.d2  # noqa: F401  # isort: skip

from mask_former.d2.commands.arguments import positive
from mask_former.d2.data.preparing import telling_errors
from mask_former.d2.describing.command import add_arguments, tell
from mask_former.d2.describing.describe import Request, describe

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(argv: Sequence[str] | None = None) -> None:
    """Describes, and says what is in the data and how to go on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="pictures and their annotations, in any known layout")
    parser.add_argument("--output", metavar="DIR", help="default: output/NAME OF THE FOLDER")
    parser.add_argument("--config-file", metavar="BASE", help="the configuration to start from")
    parser.add_argument("--workers", type=positive, help="processes that read; default: one a CPU")
    add_arguments(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="override the configuration")
    args = parser.parse_args(argv)
    name = os.path.basename(os.path.abspath(args.folder))
    request = Request(
        args.folder,
        args.output or os.path.join("output", name),
        args.config_file,
        args.opts,
        args.from_scratch,
        args.ignore,
        args.names,
        args.workers,
        args.format,
    )
    with telling_errors():
        described = describe(request, str(CONFIGS))
    print(tell(described))
    if described.config is None:
        sys.exit(1)
    print(
        f"\nTrain: ./train_net.py --config-file {described.config} OUTPUT_DIR {request.output}/run"
    )


if __name__ == "__main__":
    main()
