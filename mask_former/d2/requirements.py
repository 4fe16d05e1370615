"""Says in one sentence what is missing, instead of a traceback from inside Detectron2."""

import re
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

OLDEST_VERSION = (0, 6)  # commands/install_detectron2.py reads it here
_PACKAGE = __name__.rpartition(".d2")[0]
# Between them they import all that we use, and what that needs: OpenCV, pycocotools, fvcore.
_MODULES = ("detectron2.engine", "detectron2.projects.deeplab")
# A Detectron2 built for other versions of torch, NumPy or Pillow fails in any of these ways.
_IMPORT_FAULTS = (ImportError, AttributeError, OSError, RuntimeError, TypeError)


def require_detectron2() -> None:
    """Returns when Detectron2 can be used.

    Raises:
        ImportError: it is missing, older than 0.6 or cannot be imported; one sentence that names
            the command to run.
    """
    problem = _problem()
    if problem is not None:
        if (folder := _environment_beside()) is not None:
            raise ImportError(
                f"mask_former needs Detectron2 0.6 or newer; {problem} for {sys.executable}; this "
                f"checkout has an environment: run `source {folder}/bin/activate` first"
            )
        command = f"{sys.executable} -m {_PACKAGE} install-detectron2"
        raise ImportError(
            f"mask_former needs Detectron2 0.6 or newer; {problem}; run `{command}`, which "
            "installs it where there is none and else says what to mend"
        )


def _environment_beside() -> Path | None:
    """The environment that `make setup` has made in this checkout, if Python is not of it."""
    folder = Path(__file__).resolve().parents[2] / ".venv"
    is_used = Path(sys.prefix).resolve() == folder.resolve()
    return folder if (folder / "bin" / "activate").is_file() and not is_used else None


def _problem() -> str | None:
    try:
        detectron2 = import_module("detectron2")
        if getattr(detectron2, "__file__", None) is None:  # a bare folder, such as a clone's
            return "none is installed"
        if _version(detectron2) < OLDEST_VERSION:
            return f"{detectron2.__file__} is {getattr(detectron2, '__version__', 'of no version')}"
        with warnings.catch_warnings():
            # fvcore and Detectron2 call it as they are imported; nobody can mend that here.
            warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
            for module in _MODULES:
                import_module(module)
    except ModuleNotFoundError as error:
        if error.name == "detectron2":
            return "none is installed"
        return f"the installed one cannot be imported ({error})"
    except _IMPORT_FAULTS as error:
        return f"the installed one cannot be imported ({type(error).__name__}: {error})"
    return None


def _version(package: ModuleType) -> tuple[int, ...]:
    numbers = re.findall(r"\d+", getattr(package, "__version__", ""))
    return tuple(int(number) for number in numbers[:2])
