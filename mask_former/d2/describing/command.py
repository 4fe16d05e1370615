"""What the commands share that describe a folder: arguments, and what is said."""

import argparse

from ..visualization.survey_report import text
from .describe import Described


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments about the data and the weights to start from."""
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="start from no weights, with learning rates for that",
    )
    parser.add_argument(
        "--ignore",
        type=int,
        action="append",
        default=[],
        metavar="VALUE",
        help="a value of label files that nobody is trained on; may be given several times",
    )
    parser.add_argument(
        "--names",
        metavar="FILE",
        help="class names: a name a line, lines `name:r,g,b`, a CSV, or a JSON of names by number",
    )
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="the data's format as Datumaro calls it (`datum convert --help`), which then reads "
        "them; default: it is found out",
    )


def tell(described: Described) -> str:
    """What was found, and where it was written."""
    lines = [*(f"- {note}" for note in described.notes), "", text(described.survey), ""]
    lines += [f"description    {described.description}", f"report         {described.report}"]
    if described.config is not None:
        lines.append(f"configuration  {described.config}")
    return "\n".join(lines)
