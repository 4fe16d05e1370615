"""Arguments that scripts share, and types of numbers that refuse what is out of range."""

import argparse


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 19 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def add_opts_argument(parser: argparse.ArgumentParser, which: str = "") -> None:
    """Adds ``--opts KEY VALUE …``, which takes the rest of the command line.

    Args:
        parser: of the script.
        which: added to the help, about the keys.
    """
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help=f"changes to the configuration{which}; comes last",
    )
