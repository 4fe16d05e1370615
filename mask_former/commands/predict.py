"""Segments many pictures: folders, lists, patterns, tar archives and videos, to files.

    mask_former predict model_final.pth photos results --format label overlay coco
    mask_former predict model_final.pth 'shards/*.tar' results --shard 3/8    # on 8 machines,
    mask_former predict --merge results                                       # then once

In the folder of the results, of the picture street/1.jpg:
  label     label/street/1.png: class ids, void 255 (16 bits and 65535 with over 255 classes)
  color     color/street/1.png: what was found in the colours of the overlay, void black
  overlay   overlay/street/1.jpg: the picture with what was found painted over it
  coco      coco.json: COCO's form with run lengths; category ids are 0..K-1
  panoptic  panoptic/street/1.png and panoptic.json: COCO's form; category ids are 0..K-1
results.jsonl has a line for each picture: its files, and what was found in it. Pictures that cannot
be read have one that says why, are told at the end, and make the exit code 1. A run that was ended
goes on where it was with the same command, and tries the bad ones again.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..d2.command_line.arguments import add_opts_argument, positive, share
from ..d2.command_line.importing import add_import_argument
from ..d2.data.preparing import telling_errors
from ..d2.prediction.journal import WHOLE, Part
from ..d2.prediction.running import Summary, merge, predict
from ..d2.prediction.worker import FORMATS, Job

_TOLD = 20  # bad pictures that are named at the end; results.jsonl has all


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    home = os.path.expanduser
    add("weights", nargs="?", type=home, metavar="WEIGHTS", help="a checkpoint")
    add("input", nargs="?", metavar="INPUT", help="folder, file, list (.txt) or quoted pattern")
    add("output", nargs="?", type=home, metavar="OUTPUT", help="folder to write, outside of INPUT")
    add("--config-file", type=home, metavar="FILE", help="YAML, for weights that carry none")
    add("--format", nargs="+", action="extend", choices=FORMATS, help="default: label")
    add("--gallery", action="store_true", help="write gallery.html: a page of thumbnails to search")
    add("--min-score", type=share, default=0.5, metavar="0..1", help="of instances; default: 0.5")
    add("--batch-size", type=positive, default=1, metavar="N", help="pictures at once; default: 1")
    workers = min(8, os.cpu_count() or 1)
    add(
        "--workers",
        type=positive,
        default=workers,
        metavar="N",
        help=f"threads that read, and as many that write; default: {workers}",
    )
    add(
        "--shard",
        type=_part,
        default=WHOLE,
        metavar="I/N",
        help="do the I-th of N parts of the "
        "list, I from 0 to N-1 as in SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX",
    )
    add(
        "--ray",
        nargs="?",
        type=positive,
        const=0,
        metavar="ACTORS",
        help="work on the cluster of "
        "RAY_ADDRESS, else with several processes; default: an actor for each GPU",
    )
    add("--merge", type=home, metavar="OUTPUT", help="put the parts of --shard together")
    add_import_argument(parser)
    add_opts_argument(parser)
    args = parser.parse_args(argv)
    if (args.merge is None) == (args.output is None) or (args.merge and args.weights):
        parser.error("give WEIGHTS, INPUT and OUTPUT, or --merge OUTPUT alone")
    if args.ray is not None and args.shard != WHOLE:
        parser.error("--ray divides the list by itself; leave out --shard")
    return args


def _part(text: str) -> Part:
    try:
        return Part.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not I/N with I from 0 to N-1, such as 0/4"
        ) from error


def run(args: argparse.Namespace) -> Summary:
    """Does what the command line says."""
    if args.merge is not None:
        return merge(Path(args.merge))
    job = Job(
        weights=args.weights,
        output=Path(args.output),
        config_file=args.config_file,
        opts=args.opts,
        formats=sorted(set(args.format or ["label"])),
        thumbnails=args.gallery,
        min_score=args.min_score,
        batch_size=args.batch_size,
        workers=args.workers,
        imports=args.imports,
    )
    if args.ray is None:
        return predict(job, args.input, args.shard)
    from ..d2.prediction.on_ray import ray_rows

    return predict(job, args.input, rows_of=partial(ray_rows, actors=args.ray))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs, tells what was done, and ends with 1 if pictures were bad."""
    args = parse_args(argv)
    with telling_errors():
        try:
            done = run(args)
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command goes on")
    folder = args.merge or args.output
    rate = f", {done.pictures / done.seconds:.1f} a second" if done.pictures else ""
    print(f"{folder}: {done.pictures} pictures in {done.seconds:.1f} s{rate}")
    if done.failures:
        told = [f"  {name}: {why}" for name, why in list(done.failures.items())[:_TOLD]]
        more = len(done.failures) - len(told)
        told += [f"  and {more} more, see results.jsonl"] if more else []
        sys.exit(
            "\n".join(
                [f"{len(done.failures)} of {done.pictures} pictures could not be read:", *told]
            )
        )
