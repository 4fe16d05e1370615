"""The site is built with broken links as errors, and its links lead where those of the files do."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs", reason="needs the extra docs")
pytest.importorskip("mkdocstrings", reason="needs the extra docs")
ROOT = Path(__file__).parents[2]


def build(config, output):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", output],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_built(tmp_path):
    done = build(ROOT / "mkdocs.yml", tmp_path)
    assert done.returncode == 0, done.stderr
    notebook = (tmp_path / "how_maskformer_works" / "index.html").read_text()
    assert notebook.count('src="data:image/png;base64,') == 8
    functions = (tmp_path / "api" / "functional" / "index.html").read_text()
    assert 'id="mask_former.functional.matching.bipartite_matching"' in functions
    assert not re.findall(r":(?:func|class|meth):", functions)
    readme = (tmp_path / "readme" / "index.html").read_text()
    assert 'href="../KEYS/"' in readme
    assert 'src="../images/shapes.jpg"' in readme


@pytest.mark.parametrize("link", ["nowhere.md", "#nowhere"])
def test_a_broken_link_is_an_error(tmp_path, link):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n[there]({link})\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {tmp_path / 'docs'}\n"
        "plugins: []\nhooks: []\nwatch: []\nnav: [index.md]\n"
    )
    done = build(config, tmp_path / "site")
    assert done.returncode == 1
    assert link in done.stderr


@pytest.mark.parametrize(
    ("page", "link", "leads"),
    [
        ("readme.md", "[keys](docs/KEYS.md#solver)", "[keys](KEYS.md#solver)"),
        ("readme.md", "![a](docs/images/shapes.jpg)", "![a](images/shapes.jpg)"),
        ("PERFORMANCE.md", "[b](../benchmarks/README.md)", "[b](benchmarks.md)"),
        ("published_data.md", "[home](../README.md)", "[home](readme.md)"),
        ("index.md", "[how](how_maskformer_works.ipynb)", "[how](how_maskformer_works.md)"),
        ("api/d2.md", "[s](structures.md)", "[s](structures.md)"),
        ("readme.md", "[the licence](LICENSE)", "the licence (`LICENSE`)"),
        ("readme.md", "[x](https://a.example/b)", "[x](https://a.example/b)"),
        ("readme.md", "[x](nowhere.md)", "[x](nowhere.md)"),
        ("readme.md", "```\n[x](LICENSE)\n```", "```\n[x](LICENSE)\n```"),
        ("readme.md", "[here](#there)", "[here](#there)"),
    ],
)
def test_links(page, link, leads):
    hooks = importlib.import_module("tools.site_hooks")
    at = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert hooks.on_page_markdown(link, at, None, None) == leads
