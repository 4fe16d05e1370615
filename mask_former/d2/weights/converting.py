"""What the scripts share that give the weights of other projects the names of Detectron2."""

import argparse
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..data.preparing import replacing
from ..errors import InputError
from .reading import read_weights

Weights = dict[str, Any]
"""Arrays or tensors by name."""


def parse_args(description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a script; ``description`` is its docstring."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="the .pth file of the authors")
    parser.add_argument("output", type=Path, help="the .pkl file to write")
    parser.add_argument(
        "--trust-weights",
        action="store_true",
        help="let the input run whatever it names, as pickles may; only for your own files",
    )
    return parser.parse_args(argv)


def convert_file(
    args: argparse.Namespace, convert: Callable[[Weights], Weights], author: str
) -> tuple[Weights, Weights]:
    """Writes the weights of a file as a backbone file of Detectron2.

    Args:
        args: what :func:`parse_args` gives.
        convert: gives the weights their new names.
        author: who made them, as Detectron2 notes it.

    Returns:
        The weights as they were and as they are written, in the same order.

    Raises:
        InputError: the input is no file of weights, or is the file to write.
    """
    if args.output.exists() and args.output.samefile(args.input):
        raise InputError(f"{args.output} is the input; give another name for what is written")
    weights = read_weights(args.input, trusted=args.trust_weights)["model"]
    converted = convert(weights)
    content = {"model": converted, "__author__": author, "matching_heuristics": True}
    with replacing(args.output) as temporary:
        temporary.write_bytes(pickle.dumps(content))
    return weights, converted
