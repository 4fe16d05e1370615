"""The face of the package: free to import, loaded on first use, clear where Detectron2 is not."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import mask_former

HEAVY = {"torch", "numpy", "scipy", "PIL", "cv2", "detectron2", "mask_former.d2"}


def run(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter, with the packages in ``path`` before the installed ones."""
    env = os.environ if path is None else {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_importing_it_imports_nothing_else() -> None:
    done = run("import sys, mask_former; print('\\n'.join(sys.modules))")
    assert done.returncode == 0, done.stderr
    assert "mask_former" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("name", sorted(mask_former._PUBLIC))
def test_a_public_name_is_that_of_its_module(name: str) -> None:
    assert name in dir(mask_former)
    assert name in mask_former.__all__
    assert getattr(mask_former, name) is getattr(
        import_module(mask_former._PUBLIC[name], "mask_former"), name
    )


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(AttributeError, match="'mask_former' has no attribute 'MaskFromer'"):
        _ = mask_former.MaskFromer


def test_a_public_name_registers_the_architectures() -> None:
    code = (
        "from mask_former import add_mask_former_config; "
        "from detectron2.modeling import META_ARCH_REGISTRY; "
        "print(META_ARCH_REGISTRY.get('MaskFormer').__module__)"
    )
    done = run(code)
    assert done.stdout == "mask_former.d2.meta_arch\n", done.stderr


def last_error(done: subprocess.CompletedProcess[str]) -> str:
    """The one error of a run, with no other traceback before it."""
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    return done.stderr.strip().rpartition("\n")[2]


def test_a_missing_detectron2_is_one_sentence() -> None:
    error = last_error(
        run("import sys; sys.modules['detectron2'] = None; from mask_former import MaskFormer")
    )
    assert error.startswith("ImportError: mask_former needs Detectron2 0.6 or newer; none is inst")
    assert f"run `{sys.executable} -m mask_former install-detectron2`" in error


def test_a_bare_folder_named_detectron2_is_none(tmp_path: Path) -> None:
    (tmp_path / "detectron2/detectron2").mkdir(parents=True)
    code = (
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; "
        f"sys.path.append({os.getcwd()!r}); from mask_former import MaskFormer"
    )
    assert "; none is installed; run `" in last_error(run(code, tmp_path))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("__version__ = '0.5'", "__init__.py is 0.5; run `"),
        ("", "__init__.py is of no version; run `"),
        ("import cv2_is_gone", "cannot be imported (No module named 'cv2_is_gone'); run `"),
        ("import os; os.LINEAR", "(AttributeError: module 'os' has no attribute 'LINEAR'); run `"),
        ("raise RuntimeError('operator nms')", "(RuntimeError: operator nms); run `"),
    ],
)
def test_an_unusable_detectron2_is_one_sentence(tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text(source)
    assert told in last_error(run("from mask_former import MaskFormer", tmp_path))
