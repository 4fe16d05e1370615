"""The package as a folder of another project, and beside a package with the same names."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

import mask_former

BLOCK = """
import sys
sys.modules["mask_former"] = None  # as where it is not installed
"""
VENDORED = (
    BLOCK
    + """
from third_party.mask_former import MaskFormer, add_mask_former_config
from third_party.mask_former.d2.build.model import build_model
from third_party.mask_former.d2.config import load_config
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_model as build

assert META_ARCH_REGISTRY.get("MaskFormer") is MaskFormer
assert "ade20k_full_sem_seg_val" in DatasetCatalog.list()
cfg = load_config(opts=OPTS, device="cpu")
for model in (build_model(cfg), build(cfg)):  # ours, and Detectron2's, as its trainer builds
    print(type(model).__module__, type(model.sem_seg_head).__module__)
assert not [name for name, module in sys.modules.items() if module and name.startswith("mask_f")]
"""
)
OPTS = {
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    "MODEL.BACKBONE.NAME": "build_tiny_resnet_backbone",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
}
ORIGINAL = """
# Another package of the original's names, whose registrations refuse those that are there.
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.data import DatasetCatalog

@META_ARCH_REGISTRY.register()
class MaskFormer: ...

@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead: ...

DatasetCatalog.register("ade20k_full_sem_seg_val", lambda: [])
"""


@pytest.fixture
def vendored(tmp_path: Path) -> Path:
    """A project with a copy of the package below ``third_party``."""
    source = Path(mask_former.__file__).parent
    copytree(source, tmp_path / "third_party" / "mask_former", ignore=ignore_patterns("*.pyc"))
    (tmp_path / "other.py").write_text(ORIGINAL)
    return tmp_path


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    flat = [part for option in OPTS.items() for part in option]
    command = [sys.executable, "-P", "-W", "ignore", "-c"]
    source = f"import sys\nsys.path.insert(0, {str(folder)!r})\nOPTS = {flat!r}\n{code}"
    return subprocess.run([*command, source], cwd=folder, capture_output=True, text=True)


def test_it_works_below_another_package(vendored: Path) -> None:
    done = run(VENDORED, vendored)
    assert done.returncode == 0, done.stderr
    parts = "third_party.mask_former.d2.meta_arch third_party.mask_former.modeling.head"
    assert done.stdout.splitlines() == [parts, parts]


def test_after_another_package_of_the_same_names(vendored: Path) -> None:
    code = "import other\nimport third_party.mask_former.d2\nprint('both')"
    done = run(BLOCK + code, vendored)
    assert done.returncode == 0, done.stderr
    assert "Already registered by another package, whose registrations stay: " in done.stderr
    assert "MaskFormer (META_ARCH)" in done.stderr
    assert "ade20k_full_sem_seg_val (data set)" in done.stderr
    assert done.stdout == "both\n"


def test_before_another_package_of_the_same_names(vendored: Path) -> None:
    """Detectron2 refuses the second registration, which is the other package's: import it first."""
    done = run(BLOCK + "import third_party.mask_former.d2\nimport other", vendored)
    assert done.returncode == 1
    assert "An object named 'MaskFormer' was already registered" in done.stderr
    # Until its first public name is used, the package registers nothing, so that this works.
    code = "import third_party.mask_former\nimport other\nthird_party.mask_former.MaskFormer"
    done = run(BLOCK + code, vendored)
    assert done.returncode == 0, done.stderr
