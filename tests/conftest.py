"""Fixtures that find the shared data, and the count of tests that compared with golden numbers."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

# Threads that wait are to sleep, not to spin, lest busy cores make the tests many times slower.
# OpenMP reads it when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN_RUNS = pytest.StashKey[Counter[str]]()


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Tiny tensors are slower with many threads, and a CI machine has two cores."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of checked files is not the user's, also in the processes of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    """What a run logs, and where, is no business of the next test's."""
    yield
    for name in ("fvcore", "detectron2", "mask_former"):
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    if "detectron2.utils.logger" in sys.modules:
        sys.modules["detectron2.utils.logger"].setup_logger.cache_clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the project: the full set of golden numbers, published facts, data."""
    folder = Path(os.environ.get("MASK_FORMER_SHARED") or ROOT.parent / "shared").resolve()
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; MASK_FORMER_SHARED names another")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden numbers of the repository; tests/golden/README.md describes them."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def full_golden(shared: Path) -> Path:
    """The set that those of the repository were taken from."""
    folder = shared / "golden"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def datasets_root(request: pytest.FixtureRequest) -> Path:
    """The folder with the real data sets, as Detectron2 finds them."""
    named = os.environ.get("DETECTRON2_DATASETS")
    folder = Path(named) if named else request.getfixturevalue("shared") / "datasets"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; DETECTRON2_DATASETS names another")
    return folder.resolve()


@pytest.fixture(scope="module")
def tool(request: pytest.FixtureRequest) -> ModuleType:
    """The command, or the script of ``tools``, that the test's file is named for."""
    folder = "mask_former.commands" if request.path.parent.name == "commands" else "tools"
    return import_module(f"{folder}.{request.path.stem.removeprefix('test_')}")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six random images in CamVid's layout; the folder of the training images."""
    from tests.small_runs import draw_images  # Detectron2, which the lower floors do without

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return draw_images(tmp_path)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[GOLDEN_RUNS] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _golden_sets(item):
            item.add_marker("golden")
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _golden_sets(item: pytest.Item) -> set[str]:
    return {"golden", "full_golden"}.intersection(getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and not report.skipped and item.get_closest_marker("golden"):
        item.config.stash[GOLDEN_RUNS].update({"all"} | _golden_sets(item))
    return report


def _golden_missed(config: pytest.Config) -> bool:
    """Whether the full set of golden numbers is required and no test compared with it."""
    required = os.environ.get("MASK_FORMER_REQUIRE_GOLDEN") == "1"
    return required and not config.stash[GOLDEN_RUNS]["full_golden"]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.write_line(f"golden tests run: {config.stash[GOLDEN_RUNS]['all']}")
    if _golden_missed(config):
        terminalreporter.write_line(
            "MASK_FORMER_REQUIRE_GOLDEN is 1 and the full set was not compared with, "
            "so this run has failed"
        )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _golden_missed(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
