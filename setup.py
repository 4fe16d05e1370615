"""What pyproject.toml cannot say: the configurations beside the package go into the wheel.

An editable installation finds them where they are (``mask_former/d2/configuring/published.py``).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """The package, with ``configs`` in it."""

    def run(self) -> None:
        """Copies the configurations behind the modules."""
        super().run()
        if not self.editable_mode:
            inside = Path(self.build_lib, "mask_former", "configs")
            shutil.copytree("configs", inside, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
