"""Tells what each query of a model answers for, and whether more or fewer would do.

    mask_former queries output/model_final.pth --data shapes_panoptic_val
    mask_former queries output/model_final.pth --input photos --output queries.html

Classes, places, how often a query has an object, competes for pixels and becomes a segment, over
the pictures of a data set or a folder. The page, which needs no other file, has a map for each
query; the text goes to the terminal. Thresholds are the model's (MODEL.MASK_FORMER.TEST).
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2.data import DatasetCatalog
from tqdm import tqdm

from ..d2.command_line.arguments import add_opts_argument, positive
from ..d2.command_line.importing import add_import_argument, import_code
from ..d2.data.checks import check_dataset
from ..d2.data.pairing import PICTURE_EXTENSIONS, walk
from ..d2.data.preparing import telling_errors
from ..d2.data.reading import read_picture
from ..d2.errors import InputError
from ..d2.predictor import load_predictor
from ..d2.query_usage import ask, count
from ..d2.run.files import require_writable
from ..d2.visualization.inspection import inspectable, passed_whole
from ..d2.visualization.query_report import query_text, write_query_report
from ..d2.visualization.regions import class_metadata


class Picture(NamedTuple):
    """A picture to ask about."""

    file: str
    segments: int | None
    """How many it has, if the data set lists them."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="a checkpoint")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="NAME", help="a registered data set")
    source.add_argument("--input", metavar="FOLDER", help="a folder of pictures")
    add("--config-file", metavar="FILE", help="of weights that do not carry theirs")
    add("--output", metavar="FILE", type=Path, default=Path("output/queries.html"))
    add(
        "--limit", metavar="N", type=positive, default=500, help="pictures, spread over all of them"
    )
    add_import_argument(parser)
    add_opts_argument(parser)
    return parser.parse_args(argv)


def pictures_of_data(name: str, num_classes: int) -> list[Picture]:
    """The pictures of a data set, with the number of their segments where it lists them.

    Raises:
        InputError: the data set is unknown, not on the disk, or has other classes.
    """
    check_dataset(name, num_classes)

    def segments(sample: dict) -> int | None:
        listed = sample.get("segments_info", sample.get("annotations"))
        return None if listed is None else len(listed)

    return [Picture(s["file_name"], segments(s)) for s in DatasetCatalog.get(name)]


def pictures_below(folder: str) -> list[Picture]:
    """The pictures below a folder.

    Raises:
        InputError: there is none.
    """
    files = sorted(walk(os.path.expanduser(folder), PICTURE_EXTENSIONS))
    if not files:
        raise InputError(
            f"--input: {folder} holds no picture ({', '.join(PICTURE_EXTENSIONS)}); name a folder "
            "that does"
        )
    return [Picture(os.path.join(os.path.expanduser(folder), file), None) for file in files]


def check_output(file: Path) -> None:
    """Makes the folder of the page, and sees before all the work whether one can write there.

    Raises:
        InputError: one cannot, or the page is a folder.
    """
    if file.is_dir():
        raise InputError(f"--output {file} is a folder; name the page to write in it")
    require_writable(str(file.parent), "the folder of --output")


def main(argv: Sequence[str] | None = None) -> None:
    """Asks the queries about every picture, writes the page, prints the text."""
    args = parse_args(argv)
    with telling_errors():
        check_output(args.output)
        import_code(args.imports)
        predictor = load_predictor(args.config_file, args.weights, args.opts)
        names = class_metadata(predictor.cfg).stuff_classes
        of_data = args.data is not None
        found = pictures_of_data(args.data, len(names)) if of_data else pictures_below(args.input)
        chosen = found[:: -(-len(found) // args.limit)] if found else []

        def answered() -> Iterator:
            for picture in tqdm(chosen, disable=None):
                yield ask(predictor, read_picture(picture.file, "BGR"), picture.segments)

        usage = count(answered(), len(names))
        title = f"Queries of {Path(args.weights).name} on {args.data or args.input}"
        note = passed_whole(inspectable(predictor).inference)
        write_query_report(usage, names, title, args.output, note)
    print(query_text(usage, names, title, note))
    print(f"\nWith maps of the places: {args.output}")
