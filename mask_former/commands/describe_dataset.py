r"""Describes a folder of your own pictures, reads all of it, and fills a configuration.

    mask_former describe FOLDER [--output DIR] [--config-file BASE] [KEY VALUE ...]

DIR then holds dataset.yaml (what the data are), config.yaml (how to train on them, each number with
its reason), and report.html (what the data hold and what is wrong with them). If anything is wrong
that must be mended, the exit code is 1 and there is no config.yaml.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from ..d2.command_line.arguments import positive
from ..d2.data.preparing import telling_errors
from ..d2.describing.command import add_arguments, tell
from ..d2.describing.describe import Request, describe


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="pictures and their annotations, in any known layout")
    parser.add_argument("--output", metavar="DIR", help="default: output/NAME OF THE FOLDER")
    parser.add_argument("--config-file", metavar="BASE", help="the configuration to start from")
    parser.add_argument("--workers", type=positive, help="processes that read; default: one a CPU")
    add_arguments(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="override the configuration")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Describes, and says what was found and how to go on."""
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
    described = describe(request)
    print(tell(described))
    if described.config is None:
        sys.exit(1)
    run_folder = os.path.join(request.output, "run")
    print(f"\nTrain: mask_former train --config-file {described.config} OUTPUT_DIR {run_folder}")


def main(argv: Sequence[str] | None = None) -> None:
    """See the module."""
    with telling_errors():
        run(parse_args(argv))
