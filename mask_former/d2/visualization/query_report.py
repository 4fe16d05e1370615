"""What the queries of a model are used for, to be read: one HTML page, and a text."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
from tabulate import tabulate

from ..data.preparing import replacing
from ..query_usage import Usage, advice, order_by_use
from .survey_report import STYLE, figure, html_table

_LINES = 40  # queries that the text has room for
_SIDE = 144  # pixels of a map of places
_NAMED = 4  # classes that a row of the table names, at most
_HEADERS = ("query", "segment in", "competes in", "has an object in", "answers for", "mostly at")
_LEGEND = (
    "In per cent of the pictures: the query became a segment; it was sure enough of a class to "
    "compete for pixels; its likeliest class was not “no object”. Then its classes, with their "
    "share of the pictures in which it had an object, and where its mask lies on average. A query "
    "that competes far more often than it becomes a segment doubles others."
)

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}
.pictures.small {{ grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); }}
td:nth-child(5), td:nth-child(6) {{ text-align: left; }}
</style></head><body>
<h1>{title}</h1>
<p><b>{advice}</b> {note}</p>
<h2>Segments in a picture</h2>
<div class="wide">{histogram}</div>
<h2>Places</h2>
<p>The mean mask of each query where it has an object; bright is 1. Most used first; those that
never have an object are left out.</p>
<div class="pictures small">{places}</div>
<h2>Queries</h2>
<p>{legend}</p>
<div class="wide">{queries}</div>
</body></html>
"""


def write_query_report(
    usage: Usage, names: Sequence[str], title: str, file: Path, note: str = ""
) -> None:
    """Writes the page; it needs no other file and no network.

    Args:
        usage: of the queries.
        names: of the K classes.
        title: what was asked about what.
        file: to write.
        note: what else is to be known.

    Raises:
        OSError: the page cannot be written.
    """
    order = order_by_use(usage)
    rows = [[escape(cell) for cell in _row(usage, names, query)] for query in order]
    spoken = [query for query in order if usage.spoken[query]]
    page = _PAGE.format(
        style=STYLE,
        title=escape(title),
        advice=escape(advice(usage)),
        note=escape(note),
        histogram=_histogram(usage),
        places="".join(_place(usage, names, query) for query in spoken)
        or "<p>No query had an object in any picture.</p>",
        legend=escape(_LEGEND),
        queries=html_table(_HEADERS, rows),
    )
    with replacing(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


def query_text(usage: Usage, names: Sequence[str], title: str, note: str = "") -> str:
    """The same for a terminal, without the maps; arguments as :func:`write_query_report`."""
    order = order_by_use(usage)
    rows = [_row(usage, names, query) for query in order[:_LINES]]
    lines = [
        title,
        advice(usage),
        *filter(None, [note]),
        "",
        tabulate(rows, _HEADERS, disable_numparse=True),
    ]
    if len(order) > _LINES:
        lines.append(f"… and {len(order) - _LINES} more queries, which are used less")
    return "\n".join([*lines, _LEGEND])


def place_in_words(place: np.ndarray) -> str:
    """Where most of a map [n, n] lies: "everywhere", "middle", or such as "upper left"."""
    total = place.sum()
    if total == 0:
        return ""
    centers = (np.arange(len(place)) + 0.5) / len(place)
    y, x = place.sum(axis=1) @ centers / total, place.sum(axis=0) @ centers / total
    spread = np.sqrt((place * ((centers[:, None] - y) ** 2 + (centers - x) ** 2)).sum() / total)
    rows = "upper" if y < 0.4 else "lower" if y > 0.6 else ""
    columns = "left" if x < 0.4 else "right" if x > 0.6 else ""
    # Of a map that is the same all over it is sqrt(1 / 6) = 0.41.
    everywhere = "everywhere" if spread > 0.37 else "middle"
    return " ".join(filter(None, (rows, columns))) or everywhere


def _row(usage: Usage, names: Sequence[str], query: int) -> list[str]:
    """Values for ``_HEADERS``."""
    pictures = len(usage.at_once)
    shares = (usage.kept[query], usage.took_part[query], usage.spoken[query])
    return [
        str(query),
        *(f"{share / pictures:.0%}" for share in shares),
        _classes(usage, names, query),
        place_in_words(usage.places[query]),
    ]


def _classes(usage: Usage, names: Sequence[str], query: int) -> str:
    counts = usage.classes[query]
    ranked = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
    told = [f"{names[k]} {counts[k] / counts.sum():.0%}" for k in ranked[:_NAMED]]
    more = len(ranked) - _NAMED
    return ", ".join(told) + (f", {more} others" if more > 0 else "")


def _place(usage: Usage, names: Sequence[str], query: int) -> str:
    grey = np.rint(255 * usage.places[query].clip(0, 1)).astype(np.uint8)
    large = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    colors = cv2.applyColorMap(large, cv2.COLORMAP_INFERNO)[..., ::-1]
    return figure(colors, escape(f"{query}: {_classes(usage, names, query)}"))


def _histogram(usage: Usage) -> str:
    """How many pictures had so many queries kept, and so many true segments."""
    of_data = usage.segments.tolist()
    rows = []
    for number in range(max([*usage.at_once.tolist(), *of_data]) + 1):
        found, true = int((usage.at_once == number).sum()), of_data.count(number)
        if found or true:
            rows.append([str(number), str(found), str(true) if of_data else ""])
    return html_table(("number", "pictures with so many queries kept", "with so many true"), rows)
