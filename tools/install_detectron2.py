"""The command ``mask_former install-detectron2`` by its path, also where nothing is installed."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    commands = Path(__file__).resolve().parents[1] / "mask_former" / "commands"
    runpy.run_path(str(commands / "install_detectron2.py"), run_name="__main__")
