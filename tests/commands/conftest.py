"""The command under test."""

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool(request: pytest.FixtureRequest) -> ModuleType:
    """The command that the test's file is named for."""
    name = request.path.stem.removeprefix("test_")
    return importlib.import_module(f"mask_former.commands.{name}")
