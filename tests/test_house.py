"""The floors: which part may import what, read from the sources and tried in an interpreter."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STANDARD = sys.stdlib_module_names
LOWER = {"mask_former.structures", "mask_former.functional"}
D2 = {*LOWER, "mask_former.modeling", "mask_former.d2"}
# Detectron2 and what it depends on; torch is among that.
DETECTRON2 = {"detectron2", "torch", "fvcore", "iopath", "omegaconf", "pycocotools", "yacs", "yaml"}
DETECTRON2 |= {"cloudpickle", "matplotlib", "tabulate", "tensorboard", "termcolor", "tqdm"}
# Asked for by name where one is needed and missing.
OPTIONAL = {"onnx", "onnxruntime", "openvino", "ray", "safetensors", "supervision", "timm", "wandb"}
FILES_AND_PICTURES = {"numpy", "scipy", "torchvision", "PIL", "cv2", "panopticapi"}

ALLOWED = {  # part of the package: what it may import beside the standard library
    "mask_former/__init__.py": set(),
    # May be copied by itself.
    "mask_former/runtime.py": {"numpy", "PIL", "onnxruntime"},
    # The original's paths, two lines each, for those that other projects import.
    "mask_former/config.py": {"mask_former.d2"},
    "mask_former/mask_former_model.py": {"mask_former.d2"},
    "mask_former/test_time_augmentation.py": {"mask_former.d2"},
    "mask_former/data": {"mask_former.d2"},
    "mask_former/structures.py": {"numpy", "torch", "scipy"},
    "mask_former/functional": {"numpy", "torch", "scipy", *LOWER},
    "mask_former/modeling": {"torch", *LOWER, "mask_former.modeling"},
    "mask_former/d2": {
        *DETECTRON2,
        *OPTIONAL,
        *FILES_AND_PICTURES,
        *D2,
        "mask_former.__version__",
        "mask_former.runtime",
    },
    "mask_former/demo": {*DETECTRON2, *FILES_AND_PICTURES, "mask_former.d2", "mask_former.demo"},
    "mask_former/commands": {
        *DETECTRON2,
        *FILES_AND_PICTURES,
        "mask_former.__main__",
        "mask_former.commands",
        "mask_former.demo",
        "mask_former.runtime",
        *D2,
        "flask",
        "pypi_simple",
        "requests",
        "werkzeug",
        "safetensors",
        "submitit",
    },
    # Imports the module of the command that is asked for.
    "mask_former/__main__.py": {"mask_former.__version__"},
}
INTERNAL = {"mask_former.structures", "mask_former.functional", "mask_former.modeling"}


def sources(part: str) -> list[Path]:
    path = ROOT / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


FILES = [
    pytest.param(p, part, id=str(p.relative_to(ROOT))) for part in ALLOWED for p in sources(part)
]
LOWER_FILES = [
    pytest.param(path, id=str(path.relative_to(ROOT)))
    for part in ("mask_former/structures.py", "mask_former/functional", "mask_former/modeling")
    for path in sources(part)
]
DOORS = [ROOT / "train_net.py", *sources("demo"), *sources("tools"), *sources("datasets")]
SCRIPTS = [*sources("mask_former/commands"), *sources("mask_former/demo"), *sources("datasets")]


def imports(source: str, package: str) -> Iterator[str]:
    """Full names of all that a source imports, anywhere in it, relative to its package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, allowed: set[str]) -> bool:
    """Whether a full name is one of the allowed modules or lies in one."""
    return any(f"{name}.".startswith(f"{module}.") for module in allowed)


def imported(path: Path) -> list[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    names = imports(path.read_text(), package)
    return [name for name in names if name.partition(".")[0] not in STANDARD]


def test_imports_are_read_wherever_they_stand() -> None:
    source = "import a.b\ndef f():\n    from c import d, e\nfrom . import g\nfrom ..h import i\n"
    assert list(imports(source, "p.q")) == ["a.b", "p.q.g", "p.h.i", "c.d", "c.e"]


def test_a_name_lies_in_a_module_by_whole_parts() -> None:
    assert within("torch.nn", {"torch"})
    assert within("torch", {"torch"})
    assert not within("torchvision", {"torch"})
    assert not within("mask_former.d2.config", LOWER)


@pytest.mark.parametrize(("path", "part"), FILES)
def test_imports_go_down(path: Path, part: str) -> None:
    assert [name for name in imported(path) if not within(name, ALLOWED[part])] == []


@pytest.mark.parametrize("path", sources("mask_former/d2"), ids=lambda path: path.name)
def test_optional_packages_are_imported_where_they_are_needed(path: Path) -> None:
    statements = ast.parse(path.read_text()).body
    at_load = [s for s in statements if isinstance(s, ast.Import | ast.ImportFrom)]
    package = ".".join(path.relative_to(ROOT).parent.parts)
    names = imports("\n".join(map(ast.unparse, at_load)), package)
    assert [name for name in names if within(name, OPTIONAL)] == []


@pytest.mark.parametrize("path", LOWER_FILES)
def test_the_lower_floors_know_no_config_and_no_files(path: Path) -> None:
    names = {
        node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)
    }
    assert not names & {"cfg", "open", "Path"}


@pytest.mark.parametrize("path", sources("mask_former/functional"), ids=lambda path: path.name)
def test_the_ground_floor_has_no_modules(path: Path) -> None:
    modules = [name for name in imported(path) if within(name, {"torch.nn"})]
    assert [name for name in modules if not within(name, {"torch.nn.functional"})] == []
    attributes = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
    ]
    assert "Module" not in {node.attr for node in attributes}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_use_no_internals(path: Path) -> None:
    assert [name for name in imported(path) if within(name, INTERNAL)] == []


@pytest.mark.parametrize("path", DOORS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_that_name_their_interpreter_can_be_called(path: Path) -> None:
    assert os.access(path, os.X_OK) == path.read_text().startswith("#!")


@pytest.mark.parametrize(
    "path", sources("mask_former"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_functions_fit_on_a_screen(path: Path) -> None:
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    lengths = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno}
    assert {name: lines for name, lines in lengths.items() if lines > 52} == {}


def test_the_lower_floors_work_without_detectron2_and_torchvision() -> None:
    code = """
import sys, pkgutil, importlib
for name in ("detectron2", "torchvision", "cv2", "PIL"):
    sys.modules[name] = None
import mask_former.functional, mask_former.modeling
for package in (mask_former.functional, mask_former.modeling):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        print(module.name)
assert "mask_former.d2" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mask_former.functional.matching" in done.stdout.split()
    assert "mask_former.modeling.transformer" in done.stdout.split()
