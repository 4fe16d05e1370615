"""The count of golden tests: a run that had to compare with golden numbers and did not fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
SUITE = """
def test_compares(golden):
    import cases
    assert cases.fill.WEIGHT == 3

def test_compares_twice(golden):
    assert (golden / "fill.py").is_file()

def test_does_not(): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project with this conftest, and golden numbers beside it."""
    tests, golden = tmp_path / "project/tests", tmp_path / "shared/golden"
    tests.mkdir(parents=True)
    golden.mkdir(parents=True)
    (tmp_path / "project/pytest.ini").write_text("[pytest]\nmarkers = golden\n")
    shutil.copy(CONFTEST, tests)
    (tests / "test_it.py").write_text(SUITE)
    (golden / "fill.py").write_text("WEIGHT = 3\n")
    (golden / "cases.py").write_text("import fill\n")
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


def test_none_where_they_are_required_is_a_failure(project: Path, tmp_path: Path) -> None:
    away = {"MASK_FORMER_SHARED": str(tmp_path / "away")}
    done = run_pytest(project, MASK_FORMER_REQUIRE_GOLDEN="1", **away)
    assert "1 passed, 2 skipped" in done.stdout, done.stdout
    assert "golden tests run: 0\n" in done.stdout
    assert done.returncode == 1


def test_none_where_they_are_not_required_is_fine(project: Path, tmp_path: Path) -> None:
    done = run_pytest(project, MASK_FORMER_SHARED=str(tmp_path / "away"))
    assert "golden tests run: 0\n" in done.stdout, done.stdout
    assert done.returncode == 0
