"""Fixtures of runs."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """What our loggers say; setting up a run's log stops them from passing it on."""
    monkeypatch.setattr(logging.getLogger("mask_former"), "propagate", True)
    caplog.set_level(logging.INFO, logger="mask_former")
    return caplog
