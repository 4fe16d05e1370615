"""Fixtures that find the shared data, and the count of tests that compared with golden numbers."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Threads that wait are to sleep, not to spin, lest busy cores make the tests many times slower.
# OpenMP reads it when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN_RUNS = pytest.StashKey[int]()


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Tiny tensors are slower with many threads, and a CI machine has two cores."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the project, with golden numbers, the specification and data."""
    folder = Path(os.environ.get("MASK_FORMER_SHARED") or ROOT.parent / "shared").resolve()
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; MASK_FORMER_SHARED names another")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Iterator[Path]:
    """The golden numbers; ``import fill`` and ``import cases`` give their inputs meanwhile."""
    folder = shared / "golden"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    names = ("fill", "cases")  # in this order: cases imports fill
    for name in names:
        _load(name, folder / f"{name}.py")
    yield folder
    for name in names:
        del sys.modules[name]


def _load(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


@pytest.fixture(scope="session")
def datasets_root(request: pytest.FixtureRequest) -> Path:
    """The folder with the real data sets, as Detectron2 finds them."""
    named = os.environ.get("DETECTRON2_DATASETS")
    folder = Path(named) if named else request.getfixturevalue("shared") / "datasets"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; DETECTRON2_DATASETS names another")
    return folder.resolve()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[GOLDEN_RUNS] = 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "golden" in getattr(item, "fixturenames", ()):
            item.add_marker("golden")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and not report.skipped and item.get_closest_marker("golden"):
        item.config.stash[GOLDEN_RUNS] += 1
    return report


def _golden_missed(config: pytest.Config) -> bool:
    """Whether golden numbers are required and no test compared with them."""
    return os.environ.get("MASK_FORMER_REQUIRE_GOLDEN") == "1" and not config.stash[GOLDEN_RUNS]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.write_line(f"golden tests run: {config.stash[GOLDEN_RUNS]}")
    if _golden_missed(config):
        terminalreporter.write_line("MASK_FORMER_REQUIRE_GOLDEN is 1, so this run has failed")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _golden_missed(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
