"""What is said where Detectron2 is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mask_former.d2 import requirements

ROOT = Path(__file__).parents[2]


def checkout(folder: Path, has_environment: bool) -> Path:
    """What a script imports before it needs Detectron2; gives the script."""
    (folder / "mask_former" / "d2").mkdir(parents=True)
    sources = [
        f"mask_former/{name}" for name in ("__init__", "__main__", "d2/__init__", "d2/requirements")
    ]
    for name in [*sources, "train_net"]:
        (folder / f"{name}.py").write_bytes((ROOT / f"{name}.py").read_bytes())
    if has_environment:
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").touch()
    return folder / "train_net.py"


@pytest.mark.parametrize("has_environment", [True, False])
def test_the_advice_is_the_environment_beside_the_script(tmp_path, has_environment):
    script = checkout(tmp_path, has_environment)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", str(script)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: mask_former needs Detectron2 0.6 or newer; none is installed")
    activate = f"run `source {script.parent}/.venv/bin/activate` first"
    assert (activate in line) == has_environment
    assert ("-m mask_former install-detectron2" in line) != has_environment


def test_no_advice_to_the_environment_in_use(monkeypatch):
    folder = Path(requirements.__file__).resolve().parents[2] / ".venv"
    monkeypatch.setattr(sys, "prefix", str(folder))
    assert requirements._environment_beside() is None
