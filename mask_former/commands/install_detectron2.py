"""Installs Detectron2 0.6 and panopticapi, which have no release of their own on the registry.

What can be imported is left as it is; what is there but cannot be imported is reported and never
overwritten. Otherwise the Detectron2 0.6 sdist on the registry is checked by sha256, edited for
current Python, torch, NumPy and Pillow, packed as a pure wheel and installed by pip. Nothing of the
sdist is executed. Running it again does no harm.
"""

import argparse
import ast
import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import re
import runpy
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SDIST_PROJECT = "pb1-detectron2"
SDIST_FILE = "pb1-detectron2-0.6.tar.gz"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
WHEEL_VERSION = "0.6+maskformer.1"
# By its path: neither the package nor Detectron2 need be there yet.
REQUIREMENTS = Path(__file__).parents[1] / "d2" / "requirements.py"
OLDEST_VERSION: tuple[int, ...] = runpy.run_path(str(REQUIREMENTS))["OLDEST_VERSION"]
PANOPTICAPI = "panopticapi-lite==0.2.0"

# Everything of Detectron2 that mask_former imports, so that "importable" means "serves us".
DETECTRON2_MODULES = (
    "detectron2.data",
    "detectron2.engine",
    "detectron2.evaluation",
    "detectron2.modeling",
    "detectron2.projects.deeplab",
    "detectron2.utils.visualizer",
)
PANOPTICAPI_MODULES = ("panopticapi.evaluation", "panopticapi.utils")

PROJECTS = {
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
}

# Those of 0.6 without black (a formatter), future and pydot (for caffe2, which torch has dropped),
# and without the upper bound on iopath. OpenCV and torch are left to the user, as in 0.6.
WHEEL_REQUIRES = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
)


class Edit(NamedTuple):
    """One exact replacement in one file of the sdist; ``old`` must be there ``hits`` times."""

    file: str
    old: str
    new: str
    hits: int = 1


IMPORT_C = "from detectron2 import _C\n"
OPTIONAL_C = """\
try:
    from detectron2 import _C
except ImportError:  # built without the compiled operators
    _C = None
"""

EDITS = (
    Edit("detectron2/layers/deform_conv.py", IMPORT_C, OPTIONAL_C),
    Edit("detectron2/layers/rotated_boxes.py", IMPORT_C, OPTIONAL_C),
    Edit("detectron2/layers/roi_align_rotated.py", IMPORT_C, OPTIONAL_C),
    Edit(
        "detectron2/evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "try:\n"
        "    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:  # built without the compiled operators\n"
        "    COCOeval_opt = COCOeval\n",
    ),
    # Pillow 10 has no LINEAR
    Edit("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR"),
    # NumPy 1.24 has no aliases of Python's types
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "np.int)", "int)", hits=2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "np.float)", "float)", hits=5),
    Edit("detectron2/utils/visualizer.py", "np.bool)", "bool)", hits=3),
    Edit("detectron2/utils/video_visualizer.py", "np.bool)", "bool)"),
    Edit("detectron2/structures/masks.py", "np.bool)", "bool)", hits=3),
    Edit("detectron2/data/build.py", "dtype=np.int", "dtype=int", hits=2),
    Edit("detectron2/evaluation/pascal_voc_evaluation.py", "np.bool)", "bool)", hits=2),
    Edit("detectron2/data/datasets/pascal_voc.py", "np.str)", "str)"),
    # Python 3.11 samples from sequences only
    Edit(
        "detectron2/data/common.py",
        "self._rng.sample(self._fallback_candidates, k=1)",
        "self._rng.sample(list(self._fallback_candidates), k=1)",
    ),
    # in torch 2 _LRScheduler is a subclass that torch's own schedulers do not have
    Edit(
        "detectron2/engine/hooks.py",
        "torch.optim.lr_scheduler._LRScheduler",
        "torch.optim.lr_scheduler.LRScheduler",
        hits=2,
    ),
    Edit(
        "detectron2/export/__init__.py",
        "from .api import *\n",
        "try:\n    from .api import *\nexcept ImportError:  # torch without caffe2\n    pass\n",
    ),
    # setuptools 82 has no pkg_resources
    Edit("detectron2/model_zoo/model_zoo.py", "import pkg_resources\n", ""),
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        "pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
        "    )",
        'os.path.join(os.path.dirname(__file__), "configs", config_path)',
    ),
    # NumPy 2 raises where a copy cannot be avoided
    Edit("detectron2/layers/mask_ops.py", "np.array(mask, copy=False)", "np.asarray(mask)"),
)


class InstallError(RuntimeError):
    """What stands in the way, in words for the user."""


class Package(NamedTuple):
    """How a package answers to an import, tried in an interpreter of its own."""

    location: str | None
    """File of the package; None when there is none."""
    version: str = ""
    fault: str | None = None
    """Last line of the error when it is there and cannot be imported."""


def find_package(name: str, modules: Iterable[str]) -> Package:
    """Looks for a package and tries to import the named modules of it."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        # A bare folder of that name, such as a clone's, is no package: an installed one wins.
        return _package_without_code(name)
    code = f"import {', '.join((name, *modules))}; print(getattr({name}, '__version__', ''))"
    # -P: a source tree in the working directory is not what the user has installed.
    tried = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    if tried.returncode != 0:
        return Package(spec.origin, fault=tried.stderr.strip().rpartition("\n")[2])
    return Package(spec.origin, version=tried.stdout.strip().rpartition("\n")[2])


def _package_without_code(name: str) -> Package:
    """A distribution may be there without its package: an editable install that was moved."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return Package(None)
    return Package(str(distribution.locate_file(name)), fault="its files are gone")


def is_present(title: str, package: Package) -> bool:
    """True when a working package is there, False when there is none.

    Raises:
        InstallError: a package is there and cannot be imported.
    """
    if package.location is None:
        return False
    if package.fault is not None:
        raise InstallError(
            f"{title} is at {package.location} but cannot be imported ({package.fault}) and is "
            f"left as it is. Install what is missing, or remove that {title} and run this again."
        )
    return True


def check_not_older(package: Package) -> None:
    """Refuses a working Detectron2 older than 0.6."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", package.version)[:2])
    if numbers < OLDEST_VERSION:
        raise InstallError(
            f"Detectron2 {package.version} at {package.location} is too old, 0.6 or newer is "
            f"needed. It is left as it is. Remove it with `{pip_command('uninstall detectron2')}` "
            "and run this again."
        )


def pip_command(arguments: str) -> str:
    """The pip command line of this interpreter, for messages."""
    return f"{sys.executable} -m pip {arguments}"


def pip_setting(name: str) -> str | None:
    """A setting of pip: from the environment (``PIP_INDEX_URL``), then from its files."""
    # `config list` reads all of pip's files, where `config get` reads the user's alone.
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    settings = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    value = settings.get(f":env:.{name}") or settings.get(f"global.{name}")
    return ast.literal_eval(value) if value else None


def pip_install(*arguments: str) -> None:
    """Installs into the running interpreter."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    if subprocess.run(command).returncode != 0:
        raise InstallError(f"this failed, see pip's own message above: {' '.join(command)}")


def download_sdist(folder: Path) -> bytes:
    """The bytes of the sdist, from the index that pip uses; not yet checked."""
    try:
        from pypi_simple import PYPI_SIMPLE_ENDPOINT, NoSuchProjectError, PyPISimple
        from requests import RequestException
    except ImportError as error:
        raise InstallError(
            f"the download needs pypi-simple; run `{pip_command('install pypi-simple')}` first"
        ) from error
    target = folder / SDIST_FILE
    with PyPISimple(pip_setting("index-url") or PYPI_SIMPLE_ENDPOINT) as index:
        index.s.verify = pip_setting("cert") or True
        try:
            packages = index.get_project_page(SDIST_PROJECT).packages
            wanted = [package for package in packages if package.filename == SDIST_FILE]
            if not wanted:
                raise InstallError(f"the index {index.endpoint} has no {SDIST_FILE}")
            # verify=False: an index may give no digests; check_sha256 has the one that counts.
            index.download_package(wanted[0], target, verify=False)
        except (RequestException, NoSuchProjectError, ValueError) as error:
            raise InstallError(f"{SDIST_FILE} could not be downloaded: {error}") from error
    return target.read_bytes()


def check_sha256(archive: bytes) -> None:
    """Refuses an archive that is not the one the edits were written for."""
    found = hashlib.sha256(archive).hexdigest()
    if found != SDIST_SHA256:
        raise InstallError(
            f"{SDIST_FILE} has sha256 {found}, expected {SDIST_SHA256}. Nothing was unpacked; "
            "check the index that pip is set to use."
        )


def read_sdist(archive: bytes) -> dict[str, bytes]:
    """The regular files of an sdist by their path below its top folder."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile():
                path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
                files[str(path)] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return files


def apply_edits(files: Mapping[str, bytes], edits: Iterable[Edit] = EDITS) -> dict[str, bytes]:
    """The files with all edits made.

    Raises:
        InstallError: names every edit whose file is missing or whose text is not there as often
            as expected; then none is made.
    """
    edited, problems = dict(files), []
    for edit in edits:
        found = edited.get(edit.file, b"").count(edit.old.encode())
        if found != edit.hits:
            problems.append(f"{edit.file}: {edit.old!r} found {found} times, expected {edit.hits}")
        elif edit.file in edited:
            edited[edit.file] = edited[edit.file].replace(edit.old.encode(), edit.new.encode())
    if problems:
        raise InstallError("this is not the expected Detectron2 0.6: " + "; ".join(problems))
    return edited


def package_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """What goes into the wheel: the package, with the projects in ``detectron2.projects``."""
    packed = {path: data for path, data in files.items() if path.startswith("detectron2/")}
    for source, target in PROJECTS.items():
        moved = {
            target + path.removeprefix(source): data
            for path, data in files.items()
            if path.startswith(source)
        }
        if target + "__init__.py" not in moved:
            raise InstallError(f"this is not the expected Detectron2 0.6: no {source}__init__.py")
        packed |= moved
    return packed


def wheel_info(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The ``.dist-info`` files, all but RECORD."""
    metadata = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {WHEEL_VERSION}",
        f"Summary: Detectron2 0.6 with {len(EDITS)} edits for current Python, torch and NumPy",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "License: Apache-2.0",
        "Requires-Python: >=3.11",
        *(f"Requires-Dist: {requirement}" for requirement in WHEEL_REQUIRES),
    ]
    wheel = ["Wheel-Version: 1.0", "Generator: mask_former", "Root-Is-Purelib: true"]
    info = f"detectron2-{WHEEL_VERSION}.dist-info"
    return {
        f"{info}/LICENSE": files["LICENSE"],
        f"{info}/METADATA": "\n".join([*metadata, ""]).encode(),
        f"{info}/WHEEL": "\n".join([*wheel, "Tag: py3-none-any", ""]).encode(),
    }


def wheel_record(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """RECORD: hash and size of every file of the wheel."""
    record = f"detectron2-{WHEEL_VERSION}.dist-info/RECORD"
    lines = []
    for path, data in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        lines.append(f"{path},sha256={digest},{len(data)}\n")
    return {record: "".join([*lines, f"{record},,\n"]).encode()}


def write_wheel(files: Mapping[str, bytes], folder: Path) -> Path:
    """Writes the wheel; the same files give the same bytes."""
    path = folder / f"detectron2-{WHEEL_VERSION}-py3-none-any.whl"
    # Stored, not deflated: deflate's bytes differ between builds of zlib.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as wheel:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, so that the permissions below are read as such
            entry.external_attr = 0o100644 << 16
            wheel.writestr(entry, data)
    return path


def build_wheel(files: Mapping[str, bytes], folder: Path) -> Path:
    """From the edited files of the sdist to the wheel."""
    packed = package_files(files) | wheel_info(files)
    return write_wheel(packed | wheel_record(packed), folder)


def install_detectron2() -> None:
    """Leaves a working Detectron2 alone, refuses a broken or too old one, installs one if none."""
    package = find_package("detectron2", DETECTRON2_MODULES)
    if is_present("Detectron2", package):
        check_not_older(package)
        return say(f"Detectron2 {package.version} at {package.location} is left as it is.")
    say(f"No Detectron2 found: building one from {SDIST_FILE}.")
    with tempfile.TemporaryDirectory() as folder:
        archive = download_sdist(Path(folder))
        check_sha256(archive)
        files = apply_edits(read_sdist(archive))
        pip_install(str(build_wheel(files, Path(folder))))
    is_present("Detectron2", find_package("detectron2", DETECTRON2_MODULES))
    say(f"Detectron2 {WHEEL_VERSION} is installed.")


def install_panopticapi() -> None:
    """Leaves a working panopticapi alone, refuses a broken one, installs one if there is none."""
    package = find_package("panopticapi", PANOPTICAPI_MODULES)
    if is_present("panopticapi", package):
        return say(f"panopticapi at {package.location} is left as it is.")
    # It declares numpy<2 and scikit-image; the code works with NumPy 2 and imports no scikit-image.
    pip_install("--no-deps", PANOPTICAPI)
    is_present("panopticapi", find_package("panopticapi", PANOPTICAPI_MODULES))
    say(f"{PANOPTICAPI} is installed.")


def say(line: str) -> None:
    """Prints at once, so that the lines stand in order with pip's."""
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when both packages can be imported, 1 with one sentence when something is amiss."""
    description, _, details = (__doc__ or "").partition("\n\n")
    argparse.ArgumentParser(
        description=description,
        epilog=details + "Index and CA bundle are pip's: PIP_INDEX_URL, PIP_CERT or its files.",
    ).parse_args(argv)
    try:
        install_detectron2()
        install_panopticapi()
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
