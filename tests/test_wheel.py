"""The wheel is enough by itself: built, installed away from the checkout, and used by its command.

The environment is new but for the packages that the wheel needs, which it has from here.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from mask_former.__main__ import COMMANDS
from tests.small_runs import TINY, draw_images, flat

ROOT = Path(__file__).parents[1]
TINY_SHAPES = {
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 12,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.DEVICE": "cpu",
}


def test_the_tables_of_commands_and_extras_are_complete():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "installing.md").read_text()
    commands, extras = page.split("## Extras")
    listed = re.findall(r"^\| `(\S+)` \| (.*) \| .*\|$", commands, re.MULTILINE)
    assert listed == [(name, line) for name, (_, line) in COMMANDS.items()]
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", extras, re.MULTILINE))
    assert list(rows) == sorted(project["optional-dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        named = re.findall(r"`([^`]+)`", rows[extra])
        assert named == [re.split(r"[<>=]", requirement)[0] for requirement in requirements]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would take modules that are gone from an old build folder."""
    source = tmp_path_factory.mktemp("source")
    for name in ("mask_former", "configs"):
        copytree(ROOT / name, source / name, ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(output), str(source)], check=True)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that has the wheel, and does not know the checkout."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # A path in such a file is taken as it is: that of our editable installation is not read there.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "mask_former"


def files_of(folder: Path, *patterns: str) -> set[str]:
    found = {path for pattern in patterns for path in folder.rglob(pattern)}
    return {path.relative_to(folder).as_posix() for path in found}


@pytest.mark.nightly
def test_the_wheel_has_what_the_checkout_has(wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("mask_former/")}
    package = files_of(ROOT / "mask_former", "*.py", "*.json", "*.yaml", "*.html")
    configs = files_of(ROOT / "configs", "*.yaml")
    assert names == {f"mask_former/{n}" for n in package} | {
        f"mask_former/configs/{n}" for n in configs
    }
    metadata = importlib.metadata.PathDistribution(
        zipfile.Path(wheel)
        / next(
            n.partition("/")[0] + "/"
            for n in zipfile.ZipFile(wheel).namelist()
            if ".dist-info" in n
        )
    )
    from mask_former import __version__

    assert metadata.version == __version__


@pytest.mark.nightly
def test_from_the_data_to_a_prediction_away_from_the_checkout(
    command: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"DETECTRON2_DATASETS": str(data), "OMP_NUM_THREADS": "1"}

    def run(*arguments: object, code: int = 0) -> str:
        line = [str(command), *map(str, arguments)]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    python = [str(command.with_name("python")), "-c", "import mask_former as m; print(m.__file__)"]
    place = subprocess.run(python, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert place.stdout.startswith(str(command.parents[1]))
    assert "shapes/maskformer_panoptic_tiny\n" in run("configs")
    run("shapes", "--output", data / "shapes", "--num-train", 4, "--num-val", 2, "--num-dev", 1)

    shapes = ["--config-file", "shapes/maskformer_panoptic_tiny", "--num-gpus", 0]
    told = run("train", *shapes, "--num-processes", 2, "OUTPUT_DIR", "run", *flat(TINY_SHAPES))
    assert "iteration 2 of 2" in told
    assert f"{command} train --resume" not in told
    assert "holds a run" in run("train", *shapes, "OUTPUT_DIR", "run", code=1)

    weights, pictures = "run/model_final.pth", data / "shapes" / "images" / "val"
    run("train", "--eval-only", "--num-gpus", 0, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", "test")
    run("demo", "--weights", weights, "--input", f"{pictures}/*.jpg", "--output", "drawn")
    run("predict", weights, pictures, "labels", "--format", "label", "overlay")
    run("export", weights, "model.pt2", "--format", "torch")
    assert "parameters" in run("analyze", *shapes[:2], "--tasks", "parameter", "-n", 1)
    run("queries", weights, "--input", pictures, "--output", "queries.html")
    run("plot", "run", "--output", "curves.png")
    for written in ("drawn", "labels", "model.pt2", "queries.html", "curves.png"):
        assert (tmp_path / written).exists()

    draw_images(tmp_path / "own")
    own = ["own/camvid", "--ignore", 11, "--from-scratch"]
    assert "mask_former train --config-file" in run("describe", *own, "--output", "described")
    assert (tmp_path / "described" / "report.html").is_file()
    run("train", "--num-gpus", 0, "--data", *own, *flat({**TINY, "OUTPUT_DIR": "trained"}))
    assert (tmp_path / "trained" / "model_final.pth").is_file()
