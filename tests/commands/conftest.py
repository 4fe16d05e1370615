"""The script under test."""

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool(request: pytest.FixtureRequest) -> ModuleType:
    """The tool that the test's file is named for."""
    return importlib.import_module(f"tools.{request.path.stem.removeprefix('test_')}")
