"""The README's examples run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMPONENTS = [code for code in EXAMPLES if "torch.randn" in code]
ONLY_TORCH = """
import sys
for name in ("detectron2", "torchvision", "cv2", "PIL"):
    sys.modules[name] = None
"""


@pytest.mark.parametrize("code", COMPONENTS, ids=["criterion", "pixel decoder", "post-processing"])
def test_components_run_alone(code: str) -> None:
    """With torch alone, but for the example on timm, which itself needs torchvision."""
    source = code if "timm" in code else ONLY_TORCH + code
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False
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
