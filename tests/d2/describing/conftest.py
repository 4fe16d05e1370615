"""Folders of a few pictures in the formats that people have."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user's data lie."""
    path = tmp_path / "my data"
    path.mkdir()
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where descriptions go."""
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes pictures [32, 48] of noise, or of given values that are repeated downwards."""

    def written(*names: str, values: object = None, palette: list[int] | None = None) -> None:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = sum(name.encode())
            content = np.random.RandomState(seed).randint(0, 256, (32, 48, 3), np.uint8)
            if values is not None:
                row = np.resize(np.asarray(values), (48, *np.shape(values)[1:]))
                content = np.broadcast_to(row, (32, *row.shape))
                kind = np.uint16 if content.max() > 255 else np.uint8
                content = np.ascontiguousarray(content, kind)
            picture = Image.fromarray(content)
            if palette is not None:
                picture.putpalette(palette)
            picture.save(path)

    return written
