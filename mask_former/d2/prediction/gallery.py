"""One HTML page of thumbnails that can be searched by name, class and score, without a server."""

import base64
import html
import json
from pathlib import Path
from typing import Any

from ..run.files import replacing
from .journal import Row, Rows, regions_of

MOST = 2000
"""Pictures on the page; more would be slow to open. They are taken at even distances."""

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 0; background: #f4f4f2; color: #222 }}
header {{ position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: .5em 1.5em;
  align-items: center; padding: .6em 1em; background: #fff; border-bottom: 1px solid #ccc }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(256px, 1fr)); gap: 12px;
  padding: 12px }}
figure {{ margin: 0; padding: 8px; background: #fff; border-radius: 6px }}
figure[hidden] {{ display: none }}
img {{ display: block; max-width: 100%; margin: auto }}
figcaption {{ margin-top: 6px; overflow-wrap: anywhere }}
figcaption span {{ display: inline-block; margin: 2px 8px 0 0; white-space: nowrap }}
i {{ display: inline-block; width: .8em; height: .8em; margin-right: .3em; border-radius: 2px }}
</style>
<header>
<strong>{title}</strong>
<label>class <select id="class"><option value="">any</option>{options}</select></label>
<label>score at least <input id="score" type="range" min="0" max="1" step="0.01" value="0">
<output id="least">0.00</output></label>
<label>name <input id="name" type="search"></label>
<span id="count" role="status"></span>
</header>
<main>
"""
_FOOT = """</main>
<script>
"use strict";
const figures = [...document.querySelectorAll("figure")].map(figure =>
  ({ figure, name: figure.dataset.name.toLowerCase(), scores: JSON.parse(figure.dataset.scores) }));
const field = id => document.getElementById(id);
function filter() {
  const wanted = field("class").value, least = +field("score").value;
  const part = field("name").value.toLowerCase();
  let seen = 0;
  for (const { figure, name, scores } of figures) {
    // Of each class the best score; what has none always counts.
    const best = !wanted ? Object.values(scores) : wanted in scores ? [scores[wanted]] : [];
    const fits = best.some(score => (score ?? 1) >= least) || (!wanted && least === 0);
    figure.hidden = !(fits && name.includes(part));
    seen += !figure.hidden;
  }
  field("least").value = least.toFixed(2);
  field("count").textContent = `${seen} of ${figures.length} pictures`;
}
for (const id of ["class", "score", "name"]) field(id).addEventListener("input", filter);
const scored = figures.some(({ scores }) => Object.values(scores).some(score => score !== null));
field("score").parentElement.hidden = !scored;
filter();
</script>
</html>
"""


def write_gallery(path: Path, folder: Path, rows: Rows, classes: list[dict[str, Any]]) -> None:
    """Writes the page, which needs no other file.

    Args:
        path: of the page.
        folder: of the results, with their thumbnails.
        rows: of all pictures; failures are left out.
        classes: as :func:`~mask_former.d2.prediction.assembly.categories` gives them.
    """
    step = max(1, -(-len(rows) // MOST))
    chosen = [row for i, row in enumerate(rows) if i % step == 0 and "error" not in row]
    found = {number for row in chosen for number in best_scores(row)}
    options = "".join(
        f'<option value="{entry["id"]}">{html.escape(entry["name"])}</option>'
        for entry in classes
        if entry["id"] in found
    )
    title = f"{len(chosen)} of {len(rows)} pictures" if step > 1 else f"{len(rows)} pictures"
    with replacing(path) as file:
        file.write(_HEAD.format(title=title, options=options).encode())
        for row in chosen:
            file.write(_figure(folder, row, classes).encode())
        file.write(_FOOT.encode())


def best_scores(row: Row) -> dict[int, float | None]:
    """The highest score of each class that a picture has; None for classes without scores."""
    best: dict[int, float | None] = {}
    for region in regions_of(row):
        number, score = region["category_id"], region.get("score")
        best[number] = score if score is None else max(best.get(number) or 0.0, score)
    return best


def _figure(folder: Path, row: Row, classes: list[dict[str, Any]]) -> str:
    content = base64.b64encode((folder / row["files"]["thumbnail"]).read_bytes()).decode()
    scores = best_scores(row)
    captions = []
    for number, score in sorted(
        scores.items(), key=lambda item: -1.0 if item[1] is None else -item[1]
    ):
        color = ",".join(map(str, classes[number]["color"]))
        text = html.escape(classes[number]["name"]) + ("" if score is None else f" {score:.2f}")
        captions.append(f'<span><i style="background:rgb({color})"></i>{text}</span>')
    name = html.escape(row["name"])
    return (
        f'<figure data-name="{name}" data-scores="{html.escape(json.dumps(scores))}">'
        f'<img loading="lazy" alt="{name}" src="data:image/jpeg;base64,{content}">'
        f"<figcaption>{name}<br>{''.join(captions)}</figcaption></figure>\n"
    )
