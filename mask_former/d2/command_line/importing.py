"""A user's own modules and files, imported for what they register: data sets, heads, backbones."""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--import`` to a command line; ``imports`` of what is parsed is for ``import_code``."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE",
        help="import a module, or a .py file, that registers something of your own, such as data "
        "sets; may be given several times",
    )


def import_code(names: Sequence[str]) -> None:
    """Imports modules by name and files by path, each once.

    Args:
        names: a file has the suffix ``.py``; it may import its neighbours.

    Raises:
        InputError: one is not there, or something that it needs.
    """
    for name in names:
        try:
            if name.endswith(".py") or name.startswith("."):
                _import_file(Path(name).expanduser().resolve())
            else:
                importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise InputError(_refusal(name, error)) from error
            raise InputError(
                f"--import: there is no module {error.name}{_file_hint(name)}; give its name as in "
                "`import NAME`, with its folder in PYTHONPATH or installed, or a file that ends in "
                ".py"
            ) from error
        # Detectron2's catalogs assert that a name is new.
        except InputError:
            raise  # it says enough
        except (ImportError, SyntaxError, OSError, AssertionError, ValueError) as error:
            raise InputError(_refusal(name, error)) from error


def _import_file(path: Path) -> None:
    name = str(path)  # that of no other module
    if name in sys.modules:
        return
    if not path.is_file():
        raise InputError(f"--import: there is no file {path}; mend the path")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # as Python does for a script
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _refusal(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"--import: {name} cannot be imported ({reason}); mend it, or install what it needs"


def _file_hint(name: str) -> str:
    """Points at the file that may have been meant."""
    if os.path.exists(name):
        return f", and {name} is no file that ends in .py"
    file = f"{name.replace('.', '/')}.py"
    return f"; did you mean the file {file}?" if os.path.isfile(file) else ""
