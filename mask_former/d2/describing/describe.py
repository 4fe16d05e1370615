"""A folder of files made ready to train on: its description, a report, and a configuration."""

import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..config import load_config
from ..configuring.published import find_config
from ..data.counting import SplitSurvey
from ..data.description import Description, read_description
from ..data.survey import Survey, survey
from ..errors import InputError
from ..run.files import replacing
from ..visualization.survey_report import write_report
from ..weights.reading import fetch_weights
from ..weights.record import read_record
from ..weights.zoo import zoo_config
from .filling import Choices, Facts, config_text, fill
from .recognition import description_text, recognize

_BASES = {
    "semantic": "ade20k-150/maskformer_R50_bs16_160k.yaml",
    "panoptic": "ade20k-150-panoptic/maskformer_panoptic_R50_bs16_720k.yaml",
    "instance": "ade20k-150/maskformer_R50_bs16_160k.yaml",
}
_TIMEOUT_S = 20  # of a server that does not answer


class Request(NamedTuple):
    """What a user asks for."""

    folder: str
    output: str
    """Where the files go; made if it is not there."""
    base: str | None = None
    """A configuration to start from; None: the smallest published one for the task."""
    opts: Sequence[Any] = ()
    """KEY VALUE pairs that override it."""
    from_scratch: bool = False
    ignore: Sequence[int] = ()
    """Values of label files that nobody is trained on."""
    names: str | None = None
    """A file of class names."""
    workers: int | None = None
    format: str | None = None
    """As Datumaro calls it, which then reads the folder; None: it is found out."""


class Described(NamedTuple):
    """The files that were written."""

    description: str
    config: str | None
    """None: the data have errors."""
    report: str
    survey: Survey
    notes: list[str]


def describe(request: Request) -> Described:
    """Describes a folder, reads all of it, and fills a configuration.

    A description that lies in the folder, or in the output folder from before, is taken as it is;
    a configuration from before is kept as well.

    Args:
        request: what is asked for.

    Raises:
        InputError: nothing known lies in the folder, or base, names or weights are wrong.
    """
    output = os.path.abspath(os.path.expanduser(request.output))
    folder = os.path.abspath(os.path.expanduser(request.folder))
    os.makedirs(output, exist_ok=True)
    file, notes = _description_file(folder, output, request)
    description = read_description(file)
    _check_folder(description, folder)
    weights = dict(zip(request.opts[::2], request.opts[1::2], strict=False)).get("MODEL.WEIGHTS")
    problem = _weights_problem(weights, request)
    of_weights = None if problem or not weights else _config_of_weights(weights, output)
    base = find_config(request.base or of_weights or _BASES[description.task])
    cfg = load_config(base, request.opts, "cpu")
    notes += problem or _weights_problem(cfg.MODEL.WEIGHTS, request)
    found = survey(description, output, request.workers)
    report = os.path.join(output, "report.html")
    write_report(found, Path(report))
    if found.has_errors:
        return Described(file, None, report, found, notes)
    config = Path(output, "config.yaml")
    if config.is_file():
        notes.append(f"{config} is kept as it is; take it away to have it filled anew")
        return Described(file, str(config), report, found, notes)
    own_base = request.base is not None or of_weights is not None
    choices = Choices(request.from_scratch, own_base, of_weights is not None)
    beside = description._replace(file=os.path.relpath(file, output))
    entries = fill(beside, _facts(description, found.training), cfg, choices)
    with replacing(config) as stream:
        stream.write(config_text(os.path.relpath(base, output), entries).encode())
    return Described(file, str(config), report, found, notes)


def _description_file(folder: str, output: str, request: Request) -> tuple[str, list[str]]:
    notes = []
    for place in (output, folder):
        file = Path(place, "dataset.yaml")
        if not file.is_file():
            continue
        if place == output or re.search(rb"\bsplits\W*:", file.read_bytes()):
            return str(file), [f"{file} describes the data already; take it away to have it anew"]
        notes.append(f"{file} has no splits, so it is another program's and no description of ours")
    recognized = recognize(
        folder, output, request.ignore, request.names, request.format, request.workers
    )
    file = Path(output, "dataset.yaml")
    with replacing(file) as stream:
        stream.write(description_text(recognized).encode())
    try:
        read_description(str(file))
    except InputError as error:
        file.unlink()  # or it would be taken for the user's when the data are mended
        raise InputError(InputError.sentence(error).replace(str(file), folder)) from error
    return str(file), [*notes, *recognized.notes]


def _check_folder(description: Description, folder: str) -> None:
    """Refuses a description from before that is of other data; one in the folder knows better."""
    described = os.path.realpath(description.path(""))
    lies_in_folder = os.path.dirname(description.file) == folder
    if not lies_in_folder and described != os.path.realpath(folder):
        raise InputError(
            f"{description.file} describes {described}, not {folder}; take it away to have it "
            "written anew, or let what is written go elsewhere (OUTPUT_DIR, or --output)"
        )


def _facts(description: Description, training: SplitSurvey) -> Facts:
    if training.heights is None or training.widths is None or training.segments is None:
        raise InputError(f"{description.file}: the split {training.name} has no labelled pictures")
    return Facts(
        training.labelled,
        training.heights.median,
        training.widths.median,
        training.segments.maximum,
    )


def _config_of_weights(weights: str, output: str) -> str | None:
    """The configuration that weights of a whole model have, in their record or by their name."""
    if (config := zoo_config(weights)) is not None:
        return config
    if (record := read_record(weights)) is None:
        return None
    path = os.path.join(output, "base.yaml")
    with replacing(path) as stream:
        stream.write(record.config_alone(weights).dump().encode())
    return path


def _weights_problem(weights: str | None, request: Request) -> list[str]:
    """A note where the weights to start from cannot be had."""
    if request.from_scratch or not weights:
        return []
    try:
        with _not_waiting():
            fetch_weights(weights)
    except InputError as error:
        return [f"{error}; or train from scratch with --from-scratch"]
    return []


@contextmanager
def _not_waiting() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
