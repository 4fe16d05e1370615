"""Links of the README lead somewhere, and the examples of parts run alone, as they stand."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMPONENTS = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "components.md").read_text(), re.DOTALL
)


def packages_alone(folder: Path, *names: str) -> Path:
    """A folder with these installed packages and what they require, as a fresh environment has."""
    todo, seen = list(names), set()
    while todo:
        name = todo.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of another system
            continue
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
        needed = [Requirement(line) for line in package.requires or ()]
        needed = [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
        todo += [name for name in needed if name not in seen]
        seen.update(needed)
    return folder


@pytest.mark.parametrize("code", COMPONENTS, ids=["criterion", "pixel decoder", "post-processing"])
def test_components_run_alone(code: str, tmp_path: Path) -> None:
    """With torch and SciPy alone, and with timm for the example on it."""
    names = ["torch", "scipy", *(["timm"] if "timm" in code else [])]
    paths = [str(packages_alone(tmp_path, *names)), str(ROOT)]
    absent = ["detectron2", "cv2", "fvcore", "pycocotools"]
    if "timm" not in code:
        absent += ["timm", "torchvision", "PIL"]
    source = f"""
import sys
from importlib.util import find_spec
sys.path += {paths}
assert [name for name in {absent} if find_spec(name)] == []
{code}"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ("[1, 256, 16, 24]" in done.stdout) == ("timm" in code)


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", README.replace("\n", " ")):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (ROOT / target).exists(), target
