"""The installer: exact edits, checked source, reproducible wheel, and hands off what is there."""

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mask_former.commands import install_detectron2 as installer
from mask_former.commands.install_detectron2 import Edit, InstallError

SCRIPT = Path(installer.__file__)
SDIST = {
    "LICENSE": b"the licence",
    "setup.py": b"raise SystemExit('nothing of the sdist is run')",
    "detectron2/__init__.py": b'__version__ = "0.6"\n',
    "detectron2/layers.py": b"old = 1\nolder = old\n",
    "detectron2/model_zoo/configs/base.yaml": b"A: 1\n",
    "detectron2/projects/__init__.py": b"",
    "projects/PointRend/point_rend/__init__.py": b"",
    "projects/DeepLab/deeplab/__init__.py": b"from .loss import LOSS\n",
    "projects/DeepLab/deeplab/loss.py": b"LOSS = 3\n",
    "projects/Panoptic-DeepLab/panoptic_deeplab/__init__.py": b"",
}


def archive_of(files: dict[str, bytes]) -> bytes:
    """A gzipped tar with everything below one top folder, as an sdist is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"top-0.6/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class TestEdits:
    def test_all_hits_are_replaced(self) -> None:
        edited = installer.apply_edits(SDIST, [Edit("detectron2/layers.py", "old", "new", hits=3)])
        assert edited["detectron2/layers.py"] == b"new = 1\nnewer = new\n"
        assert edited["setup.py"] == SDIST["setup.py"]

    def test_edits_of_one_file_add_up(self) -> None:
        edits = [
            Edit("detectron2/layers.py", "old = 1", "young = 1"),
            Edit("detectron2/layers.py", "= old\n", "= young\n"),
        ]
        edited = installer.apply_edits(SDIST, edits)
        assert edited["detectron2/layers.py"] == b"young = 1\nolder = young\n"

    @pytest.mark.parametrize("hits", [2, 4])
    def test_another_number_of_hits_is_refused(self, hits: int) -> None:
        with pytest.raises(InstallError, match=rf"layers.py: 'old' found 3 times, expected {hits}"):
            installer.apply_edits(SDIST, [Edit("detectron2/layers.py", "old", "new", hits)])

    def test_a_missing_file_is_refused(self) -> None:
        with pytest.raises(
            InstallError, match=r"detectron2/gone.py: 'a' found 0 times, expected 1"
        ):
            installer.apply_edits(SDIST, [Edit("detectron2/gone.py", "a", "b")])

    def test_every_problem_is_named_and_nothing_is_changed(self) -> None:
        files = dict(SDIST)
        edits = [
            Edit("detectron2/layers.py", "old", "new", hits=3),
            Edit("detectron2/layers.py", "missing", "x"),
            Edit("detectron2/__init__.py", "0.7", "x"),
        ]
        with pytest.raises(InstallError, match=r"'missing' found 0 .*'0.7' found 0"):
            installer.apply_edits(files, edits)
        assert files == SDIST

    def test_the_table(self) -> None:
        assert len(installer.EDITS) == 19
        assert len({edit.file for edit in installer.EDITS}) == 17
        assert all(edit.old != edit.new for edit in installer.EDITS)


class TestSource:
    def test_another_archive_is_refused(self) -> None:
        archive = archive_of(SDIST)
        found = hashlib.sha256(archive).hexdigest()
        with pytest.raises(
            InstallError, match=f"sha256 {found}, expected {installer.SDIST_SHA256}"
        ):
            installer.check_sha256(archive)

    def test_the_expected_archive_is_accepted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        archive = archive_of(SDIST)
        expected = hashlib.sha256(archive).hexdigest()
        monkeypatch.setattr(installer, "SDIST_SHA256", expected)
        installer.check_sha256(archive)

    def test_files_are_read_without_the_top_folder(self) -> None:
        assert installer.read_sdist(archive_of(SDIST)) == SDIST


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index on this machine, set as pip's; the folder holds its pages."""
    (tmp_path / installer.SDIST_PROJECT).mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield tmp_path
        server.shutdown()


class TestDownload:
    def page(self, index: Path, file: str) -> None:
        page = index / installer.SDIST_PROJECT / "index.html"
        page.write_text(f'<html><body><a href="{file}">{file}</a></body></html>')

    def test_the_index_of_pip_is_used(self, index: Path, tmp_path: Path) -> None:
        self.page(index, installer.SDIST_FILE)
        served = archive_of(SDIST)
        (index / installer.SDIST_PROJECT / installer.SDIST_FILE).write_bytes(served)
        assert installer.download_sdist(tmp_path) == served

    def test_an_index_with_other_files(self, index: Path, tmp_path: Path) -> None:
        self.page(index, "pb1-detectron2-0.7.tar.gz")
        with pytest.raises(InstallError, match=rf"has no {installer.SDIST_FILE}"):
            installer.download_sdist(tmp_path)

    def test_an_index_without_the_project(self, index: Path, tmp_path: Path) -> None:
        (index / installer.SDIST_PROJECT).rmdir()
        with pytest.raises(InstallError, match="could not be downloaded"):
            installer.download_sdist(tmp_path)

    def test_a_file_that_is_not_served(self, index: Path, tmp_path: Path) -> None:
        self.page(index, installer.SDIST_FILE)
        with pytest.raises(InstallError, match=r"could not be downloaded.*404"):
            installer.download_sdist(tmp_path)

    def test_settings_come_from_the_environment_then_from_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = tmp_path / "pip.conf"
        settings.write_text("[global]\nindex-url = https://one.invalid/simple\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
        monkeypatch.delenv("PIP_INDEX_URL", raising=False)
        assert installer.pip_setting("index-url") == "https://one.invalid/simple"
        monkeypatch.setenv("PIP_INDEX_URL", "https://two.invalid/simple")
        assert installer.pip_setting("index-url") == "https://two.invalid/simple"
        assert installer.pip_setting("no-such-setting") is None


class TestWheel:
    def test_the_same_files_give_the_same_bytes(self, tmp_path: Path) -> None:
        wheels = []
        for folder, files in (("a", SDIST), ("b", dict(reversed(SDIST.items())))):
            (tmp_path / folder).mkdir()
            wheels.append(installer.build_wheel(files, tmp_path / folder).read_bytes())
        assert wheels[0] == wheels[1]

    def test_the_record_holds_hash_and_size_of_every_file(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(installer.build_wheel(SDIST, tmp_path)) as wheel:
            record = wheel.read("detectron2-0.6+maskformer.1.dist-info/RECORD").decode()
            rows = dict(line.split(",", 1) for line in record.splitlines())
            assert set(rows) == set(wheel.namelist())
            data = wheel.read("detectron2/layers.py")
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        assert rows["detectron2/layers.py"] == f"sha256={digest},{len(data)}"

    def test_requirements_leave_out_what_the_code_does_not_need(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(installer.build_wheel(SDIST, tmp_path)) as wheel:
            metadata = wheel.read("detectron2-0.6+maskformer.1.dist-info/METADATA").decode()
        required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
        assert "Requires-Dist: iopath>=0.1.7" in required
        assert not [
            line for line in required if any(x in line for x in ("black", "future", "pydot"))
        ]

    def test_a_missing_project_is_refused(self, tmp_path: Path) -> None:
        files = {path: data for path, data in SDIST.items() if "DeepLab/deeplab" not in path}
        with pytest.raises(InstallError, match=r"no projects/DeepLab/deeplab/__init__\.py"):
            installer.build_wheel(files, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_pip_installs_it(self, tmp_path: Path) -> None:
        wheel, target = installer.build_wheel(SDIST, tmp_path), tmp_path / "site"
        flags = ["--quiet", "--no-deps", "--no-index", "--target", str(target)]
        subprocess.run([sys.executable, "-m", "pip", "install", *flags, str(wheel)], check=True)
        assert (target / "detectron2/model_zoo/configs/base.yaml").read_bytes() == b"A: 1\n"
        assert not (target / "setup.py").exists()
        code = "from detectron2.projects.deeplab import LOSS; print(LOSS)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "3\n"


def run_installer(path: Path) -> subprocess.CompletedProcess[str]:
    """The script itself, with the packages in ``path`` before the installed ones."""
    # An index that nobody serves: the script may not get as far as asking it.
    env = {**os.environ, "PYTHONPATH": str(path), "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    return subprocess.run([sys.executable, SCRIPT], env=env, capture_output=True, text=True)


def write_packages(root: Path, version: str = "0.6", broken: str = "") -> Path:
    """Stand-ins with every module that is looked for; ``broken`` names one that cannot load."""
    for module in (*installer.DETECTRON2_MODULES, *installer.PANOPTICAPI_MODULES):
        package = root
        for part in module.split("."):
            package /= part
            package.mkdir(exist_ok=True)
            (package / "__init__.py").touch()
    (root / "detectron2/__init__.py").write_text(f'__version__ = "{version}"\n')
    if broken:
        (root / broken / "__init__.py").write_text("import Image_LINEAR_is_gone\n")
    return root


def contents(root: Path) -> dict[Path, bytes]:
    """All files but the compiled ones."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path: path.read_bytes() for path in files}


class TestWhatIsThere:
    def test_working_packages_are_left_alone(self, tmp_path: Path) -> None:
        before = contents(write_packages(tmp_path))
        done = run_installer(tmp_path)
        assert done.returncode == 0, done.stderr
        assert (
            f"Detectron2 0.6 at {tmp_path}/detectron2/__init__.py is left as it is" in done.stdout
        )
        assert f"panopticapi at {tmp_path}/panopticapi/__init__.py is left as it is" in done.stdout
        assert contents(tmp_path) == before

    @pytest.mark.parametrize(
        ("broken", "title"),
        [
            ("detectron2", "Detectron2"),
            ("detectron2/modeling", "Detectron2"),
            ("panopticapi/evaluation", "panopticapi"),
        ],
    )
    def test_a_broken_one_is_reported_and_not_overwritten(
        self, tmp_path: Path, broken: str, title: str
    ) -> None:
        before = contents(write_packages(tmp_path, broken=broken))
        done = run_installer(tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {title} is at {tmp_path}")
        assert "No module named 'Image_LINEAR_is_gone'" in done.stderr
        assert "is left as it is" in done.stderr
        assert "Traceback" not in done.stderr
        assert contents(tmp_path) == before

    def test_an_old_one_is_reported_and_not_overwritten(self, tmp_path: Path) -> None:
        before = contents(write_packages(tmp_path, version="0.5"))
        done = run_installer(tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: Detectron2 0.5 at {tmp_path}")
        assert "0.6 or newer is needed" in done.stderr
        assert contents(tmp_path) == before

    def test_a_bare_folder_is_no_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "some_clone/some_clone").mkdir(parents=True)
        monkeypatch.syspath_prepend(tmp_path)
        assert not installer.is_present("clone", installer.find_package("some_clone", ()))
        assert not installer.is_present("none", installer.find_package("no_such_package", ()))

    def test_a_distribution_without_its_files_is_broken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        info = tmp_path / "moved_away-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moved_away\nVersion: 1.0\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(InstallError, match="its files are gone"):
            installer.is_present("moved", installer.find_package("moved_away", ()))


def test_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        installer.main(["--help"])
    assert stopped.value.code == 0
    assert "PIP_INDEX_URL" in capsys.readouterr().out
