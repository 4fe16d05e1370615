"""Preparation scripts as modules and as programs, and files in the data sets' formats."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """A script of the folder ``datasets`` as a module, by its stem."""

    def load(stem: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location("script", ROOT / "datasets" / f"{stem}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that DETECTRON2_DATASETS names."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.fixture
def write() -> Callable[..., Path]:
    """Writes an array as a picture; mode "P" gives it a palette."""

    def write_picture(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(values)
        if mode == "P":
            picture.putpalette(np.random.RandomState(0).randint(0, 256, 768).tolist())
        picture.save(path)
        return path

    return write_picture


@pytest.fixture
def read() -> Callable[[Path], np.ndarray]:
    """The values of a picture."""

    def read_picture(path: Path) -> np.ndarray:
        with Image.open(path) as picture:
            return np.asarray(picture)

    return read_picture


@pytest.fixture
def copy_real() -> Callable[[Path, Path], Path]:
    """Copies a real, read-only folder; skips the test where there is none."""

    def copy(original: Path, target: Path) -> Path:
        if not original.is_dir():
            pytest.skip(f"no folder {original}")
        for path in original.rglob("*"):
            if path.is_file():
                copied = target / path.relative_to(original)
                copied.parent.mkdir(parents=True, exist_ok=True)
                copied.write_bytes(path.read_bytes())
        return target

    return copy


Program = Callable[..., subprocess.Popen]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Program]:
    """Starts a script in a folder of its own, with DETECTRON2_DATASETS set to ``root``."""
    started = []

    def popen(stem: str, root: Path, *arguments: str) -> subprocess.Popen:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, ROOT / "datasets" / f"{stem}.py", *arguments],
            env={**os.environ, "PYTHONPATH": path, "DETECTRON2_DATASETS": str(root)},
            cwd=elsewhere,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.communicate(timeout=300)


@pytest.fixture
def run_program(start: Program) -> Callable[..., tuple[int, str, str]]:
    """Runs a script to its end: return code, what it printed, and its errors and progress."""

    def run(stem: str, root: Path, *arguments: str) -> tuple[int, str, str]:
        process = start(stem, root, *arguments)
        shown, errors = process.communicate(timeout=600)
        return process.returncode, shown, errors

    return run


@pytest.fixture
def kill_when_blocked(start: Program) -> Callable[..., dict[Path, int]]:
    """Runs a script whose source ``hole`` never answers, and kills it when the rest is done.

    Gives the time of change of each file that was finished.
    """

    def run(stem: str, root: Path, hole: Path, outputs: Callable[[], list[Path]], count: int):
        content = hole.read_bytes()
        hole.unlink()
        os.mkfifo(hole)
        process = start(stem, root, "--workers", "2")
        deadline = time.monotonic() + 300
        while len(outputs()) < count and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        finished = {path: path.stat().st_mtime_ns for path in outputs()}
        assert len(finished) == count
        process.kill()
        # the pipes close when the last worker has ended, which therefore survives no parent
        process.communicate(timeout=300)
        hole.unlink()
        hole.write_bytes(content)
        return finished

    return run
