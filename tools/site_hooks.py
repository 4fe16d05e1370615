"""What the documentation site does beside mkdocs: named by ``hooks`` in mkdocs.yml.

Pages that lie outside of ``docs`` (the README above all) become pages of the site as they are, and
so does the notebook. Links between files of the repository become links between pages; those to
files that are no page become the file's name. A link to a file that is not there stays, and
``mkdocs build --strict`` refuses it.
"""

import html
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "readme.md",
    "MODEL_ZOO.md": "model_zoo.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "datasets/README.md": "published_data.md",
    "docs/how_maskformer_works.ipynb": "how_maskformer_works.md",
}
"""Files of the repository, and the pages that they become."""
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
_ROLE = re.compile(r":(?:func|class|meth):<code>~?([^<]*)</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside of ``docs``."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        content = notebook_page(json.loads(text)) if source.endswith(".ipynb") else text
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links of a page to pages."""
    parts = _FENCE.split(markdown)  # every second one is code
    return "".join(
        part if i % 2 else _LINK.sub(lambda found: _linked(found, page.file.src_uri), part)
        for i, part in enumerate(parts)
    )


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Writes the roles of docstrings as plain names."""
    return _ROLE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", content)


def _linked(found: re.Match[str], page: str) -> str:
    """A link of a page, as it leads within the site."""
    image, text, target, anchor = found[1], found[2], found[3], found[4] or ""
    if "://" in target or target.startswith("mailto:"):
        return found[0]
    source = _SOURCES.get(page, f"docs/{page}")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    at = PAGES.get(file, file.removeprefix("docs/") if file.startswith("docs/") else None)
    if at is not None:
        relative = posixpath.relpath(at, posixpath.dirname(page) or ".")
        return f"{image}[{text}]({relative}{anchor})"
    if (ROOT / file).exists():
        named = f"`{file}`"
        return named if text.strip("`") == file else f"{text} ({named})"
    return found[0]


def notebook_page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook with what they have given, as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [_output(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"<pre>{html.escape(''.join(output['text']))}</pre>"
    picture = output["data"]["image/png"].strip()
    return f'<img alt="what the cell draws" src="data:image/png;base64,{picture}">'
