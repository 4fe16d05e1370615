"""The count of golden tests; a run that had to compare with the full set and did not fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
SUITE = """
def test_compares(golden):
    assert (golden / "numbers.json").read_text() == "3"

def test_compares_twice(golden, full_golden):
    assert (full_golden / golden.name).is_dir()

def test_does_not(): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project with this conftest, and the full set of golden numbers beside it."""
    tests = tmp_path / "project/tests"
    (tests / "golden").mkdir(parents=True)
    (tmp_path / "shared/golden/golden").mkdir(parents=True)
    (tmp_path / "project/pytest.ini").write_text("[pytest]\nmarkers = golden\n")
    shutil.copy(CONFTEST, tests)
    (tests / "test_it.py").write_text(SUITE)
    (tests / "golden/numbers.json").write_text("3")
    return tests.parent


def run_pytest(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("MASK_FORMER_")}
    command = [sys.executable, "-m", "pytest", "--import-mode=importlib", "-p", "no:cacheprovider"]
    return subprocess.run(
        command, cwd=project, env=env | environment, capture_output=True, text=True
    )


def test_golden_tests_are_counted(project: Path) -> None:
    done = run_pytest(project, MASK_FORMER_REQUIRE_GOLDEN="1")
    assert "golden tests run: 2\n" in done.stdout, done.stdout
    assert done.returncode == 0


def test_the_full_set_is_required_and_missing(project: Path, tmp_path: Path) -> None:
    away = {"MASK_FORMER_SHARED": str(tmp_path / "away")}
    done = run_pytest(project, MASK_FORMER_REQUIRE_GOLDEN="1", **away)
    assert "2 passed, 1 skipped" in done.stdout, done.stdout
    assert "golden tests run: 1\n" in done.stdout
    assert "the full set was not compared with" in done.stdout
    assert done.returncode == 1


def test_the_repositorys_set_alone_is_fine_elsewhere(project: Path, tmp_path: Path) -> None:
    done = run_pytest(project, MASK_FORMER_SHARED=str(tmp_path / "away"))
    assert "golden tests run: 1\n" in done.stdout, done.stdout
    assert done.returncode == 0
