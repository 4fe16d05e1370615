"""How the tests run the demo: options, and what it ends with."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask_former.commands import demo

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml"
SHAPES = ["--config-file", str(CONFIG)]
PANOPTIC = ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.0"]
SEMANTIC = ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"]
INSTANCE = [*SEMANTIC, "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False"]
INSTANCE += ["MODEL.MASK_FORMER.TEST.INSTANCE_ON", "True"]


def read(path: Path) -> np.ndarray:
    """[H, W, 3] RGB."""
    return np.asarray(Image.open(path).convert("RGB"))


def sentence(argv: list[str]) -> str:
    """The one line with which the demo ends, and with it the exit code 1."""
    with pytest.raises(SystemExit) as ended:
        demo.main(argv)
    message = ended.value.code
    assert isinstance(message, str)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def find_chromium() -> str | None:
    """The browser that CHROMIUM names, else one of the usual names on PATH."""
    usual = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, usual)), None)
