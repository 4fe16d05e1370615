"""One input, and what comes of it."""

import contextlib
import io
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mask_former.d2.errors import InputError
from tests.small_runs import draw_images

LONGEST = 3000  # characters; the longest lists all registered data sets
SENTENCE, RIGHT = "one sentence", "rightly accepted"
SILENT, TRACEBACK = "silently accepted", "traceback"
REFUSED, UNCLEAR = "wrongly refused", "no sentence"
OUTCOMES = (SENTENCE, RIGHT, TRACEBACK, SILENT, REFUSED, UNCLEAR)


class Case(NamedTuple):
    """An input of some kind, and what it is given to."""

    kind: str
    name: str
    act: Callable[[], object]
    is_right: bool = False
    """It looks odd, but must be accepted."""


class Result(NamedTuple):
    """What came of a case."""

    case: Case
    outcome: str
    said: str


def try_case(case: Case) -> Result:
    """Acts, and tells the outcome by what is raised and said."""
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
            case.act()
    except InputError as error:
        return _refused(case, str(error))
    except SystemExit as error:
        # argparse says its sentence itself, below the usage.
        said = heard.getvalue().strip().splitlines()[-1] if error.code == 2 else str(error.code)
        return _refused(case, said)
    except BaseException:
        return Result(case, TRACEBACK, traceback.format_exc())
    return Result(case, RIGHT if case.is_right else SILENT, "")


def _refused(case: Case, said: str) -> Result:
    if case.is_right:
        return Result(case, REFUSED, said)
    is_sentence = "\n" not in said and "Traceback" not in said and 20 < len(said) <= LONGEST
    return Result(case, SENTENCE if is_sentence else UNCLEAR, said)


@contextlib.contextmanager
def made_up_data(folder: Path) -> Iterator[None]:
    """Six pictures in a folder that DETECTRON2_DATASETS names meanwhile."""
    draw_images(folder)
    before = os.environ.get("DETECTRON2_DATASETS")
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["DETECTRON2_DATASETS"]
        else:
            os.environ["DETECTRON2_DATASETS"] = before
