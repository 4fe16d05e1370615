"""A survey of a data set to be read: one HTML file with its pictures inside, and a text."""

import base64
import os
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
from tabulate import tabulate

from ..data.counting import ClassCount, SplitSurvey, Spread
from ..data.description import Description
from ..data.findings import Finding
from ..data.preparing import replacing
from ..data.survey import Shown, Survey
from .survey_overlays import class_colors, draw_labels

_QUALITY = 85  # of JPEG
_SPLITS, _CLASSES, _FINDINGS = 8, 20, 10  # that sixty lines have room for
_LINE = 100  # characters that several examples may take together
_HEADERS = (
    "split",
    "pictures",
    "readable",
    "labelled",
    "height",
    "width",
    "most are",
    "segments",
    "unlabelled",
    "files",
)
_RANGES = (
    "Height and width: minimum / median / maximum. Segments in a picture: mean / most of 95 % / "
    "maximum."
)

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1240px;
  padding: 0 1em; color: #222; background: #fff; }
h2 { margin-top: 1.8em; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .25em .7em; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #999; }
tr:nth-child(even) td { background: #f6f6f6; }
th:first-child, td:first-child, .bars th, .bars td { text-align: left; }
.bar { display: inline-block; width: 110px; height: .75em; margin-right: .5em;
  background: #e4e4e4; }
.bar i { display: block; height: 100%; }
.swatch { display: inline-block; width: .9em; height: .9em; margin-right: .5em;
  border: 1px solid #888; vertical-align: -.1em; }
.finding { border-left: 5px solid #d99a00; padding: .1em 1em; margin: 1em 0; }
.finding.error { border-color: #c62828; }
.finding ul { margin: .3em 0; overflow-wrap: anywhere; }
.none { color: #b71c1c; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr));
  gap: 1em; }
figure { margin: 0; }
figure img { width: 100%; }
figcaption { font-size: 85%; overflow-wrap: anywhere; }
"""
"""Of the pages that this package writes; they need no other file."""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
{style}</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
<h2>Findings</h2>
{findings}
<h2>Splits</h2>
<p>{ranges}</p>
<div class="wide">{splits}</div>
<h2>Classes</h2>
<p>{legend}</p>
<div class="wide bars">{classes}</div>
<h2>Labels on pictures</h2>
<p>Rare classes first; each picture was chosen for the class that its caption names.</p>
<div class="pictures">{pictures}</div>
</body></html>
"""


def write_report(survey: Survey, file: Path) -> None:
    """Writes the page; it needs no other file and no network.

    Raises:
        InputError: a picture that was read by the survey has gone, or the page cannot be written.
    """
    description = survey.description
    page = _PAGE.format(
        style=STYLE,
        title=escape(f"Data set {description.name}"),
        summary=escape(_summary(survey)),
        findings="".join(map(_finding, survey.findings)) or "<p>Nothing was found to be wrong.</p>",
        splits=html_table(_HEADERS, (map(escape, _split_row(survey, s)) for s in survey.splits)),
        ranges=escape(_RANGES),
        legend=escape(_legend(description)),
        classes=_class_table(survey),
        pictures="".join(_figure(survey, shown) for shown in survey.shown)
        or "<p>No picture has labels that can be drawn.</p>",
    )
    with replacing(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


def text(survey: Survey) -> str:
    """The same for a terminal, in at most sixty lines, without the pictures."""
    splits = [_split_row(survey, split) for split in survey.splits[:_SPLITS]]
    lines = [_summary(survey), "", tabulate(splits, _HEADERS, disable_numparse=True)]
    lines += [_more(survey.splits, _SPLITS, "splits"), _RANGES, _legend(survey.description)]
    names = [entry.name for entry in survey.description.classes]
    totals = [sum(s.classes[i].pixels for s in survey.splits) for i in range(len(names))]
    classes = [i for i, pixels in enumerate(totals) if pixels]  # findings name the others
    if len(classes) > _CLASSES:
        classes.sort(key=totals.__getitem__)
    rows = [
        [names[i], *(_class_cell(survey, s, i) for s in survey.splits)] for i in classes[:_CLASSES]
    ]
    headers = ["class", *(_short(survey, split) for split in survey.splits)]
    lines.append(tabulate(rows, headers, disable_numparse=True))
    lines.append(_more(classes, _CLASSES, "classes, which have more pixels"))
    for finding in survey.findings[:_FINDINGS]:
        lines.append(f"{_severity(finding)}: {finding.what}: {finding.number}; {finding.remedy}")
        examples = ", ".join(finding.examples)
        lines.append(f"    {examples if len(examples) < _LINE else finding.examples[0]}")
    lines.append(_more(survey.findings, _FINDINGS, "findings"))
    return "\n".join(line for line in lines if line is not None)


def _more(entries: Sequence[object], shown: int, what: str) -> str | None:
    """The line under a table that is cut."""
    more = len(entries) - shown
    return f"… and {more} more {what}" if more > 0 else None


def _summary(survey: Survey) -> str:
    description = survey.description
    errors = sum(finding.is_error for finding in survey.findings)
    pictures = sum(split.pictures for split in survey.splits)
    verdict = "mend the errors before training" if errors else "it can be trained"
    return (
        f"{description.name}: {description.task}, {len(description.classes)} classes, {pictures} "
        f"pictures in {len(survey.splits)} splits; {errors} kinds of errors, "
        f"{len(survey.findings) - errors} of warnings: {verdict}"
    )


def _short(survey: Survey, split: SplitSurvey) -> str:
    """The name of a split without that of the data set."""
    return split.name.removeprefix(f"{survey.description.name}_")


def _split_row(survey: Survey, split: SplitSurvey) -> list[str]:
    """Values for ``_HEADERS``."""
    size, segments = split.most_common_size, split.segments
    kinds = [f"{kind}: {count}" for kind, count in split.kinds.items()]
    numbers = ""
    if segments is not None:
        numbers = f"{segments.mean:.1f} / {segments.percentile_95} / {segments.maximum}"
    return [
        _short(survey, split),
        *map(str, (split.pictures, split.readable, split.labelled)),
        _spread(split.heights),
        _spread(split.widths),
        f"{size[1]}x{size[0]}" if size else "",
        numbers,
        "" if split.unlabelled is None else f"{split.unlabelled:.1%}",
        ", ".join(kinds[:2]) + (f", {len(kinds) - 2} other kinds" if len(kinds) > 2 else ""),
    ]


def _spread(spread: Spread | None) -> str:
    return " / ".join(map(str, spread)) if spread is not None else ""


def _legend(description: Description) -> str:
    segments = "" if description.task == "semantic" else " (and segments)"
    return f"Share of a class in the labelled pixels of a split, and pictures{segments} with it:"


def _share(split: SplitSurvey, found: ClassCount) -> float:
    return found.pixels / max(1, sum(each.pixels for each in split.classes))


def _class_cell(survey: Survey, split: SplitSurvey, index: int) -> str:
    found = split.classes[index]
    if not split.labelled:
        return ""
    if not found.pixels:
        return "none"
    segments = "" if survey.description.task == "semantic" else f" ({found.segments})"
    return f"{_share(split, found):.2%} in {found.pictures}{segments}"


def _severity(finding: Finding) -> str:
    return "error" if finding.is_error else "warning"


def _finding(finding: Finding) -> str:
    severity, examples = _severity(finding), finding.examples
    items = "".join(f"<li>{escape(example)}</li>" for example in examples)
    more = finding.number - len(examples)
    items += f"<li>… and {more} more</li>" if more > 0 else ""
    title = escape(f"{severity.capitalize()}: {finding.what}: {finding.number}")
    remedy = escape(finding.remedy[:1].upper() + finding.remedy[1:])
    return (
        f'<div class="finding {severity}"><p><b>{title}.</b> {remedy}.</p><ul>{items}</ul></div>\n'
    )


def html_table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; cells of rows are HTML."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _class_table(survey: Survey) -> str:
    """With bars, of which the longest is as long as the most frequent class of all splits."""
    splits, classes = survey.splits, survey.description.classes
    longest = max((_share(split, c) for split in splits for c in split.classes), default=0) or 1
    colors = [f"rgb({red},{green},{blue})" for red, green, blue in class_colors(survey.description)]

    def cell(split: SplitSurvey, index: int) -> str:
        value = escape(_class_cell(survey, split, index))
        if value in ("", "none"):
            return f'<span class="none">{value}</span>'
        width = 100 * _share(split, split.classes[index]) / longest
        bar = f'<i style="width:{width:.1f}%;background:{colors[index]}"></i>'
        return f'<span class="bar">{bar}</span>{value}'

    def row(index: int) -> Iterator[str]:
        swatch = f'<span class="swatch" style="background:{colors[index]}"></span>'
        yield swatch + escape(classes[index].name)
        yield from (cell(split, index) for split in splits)

    headers = ["class", *(_short(survey, split) for split in splits)]
    return html_table(headers, map(row, range(len(classes))))


def _figure(survey: Survey, shown: Shown) -> str:
    """A drawing; its caption has the path below the folder that all those shown have in common."""
    name = survey.description.classes[shown.rarest].name
    folders = [os.path.dirname(each.sample["file_name"]) for each in survey.shown]
    file = os.path.relpath(shown.sample["file_name"], os.path.commonpath(folders))
    caption = escape(f"{name}: {file} ({shown.split})")
    return figure(draw_labels(survey.description, shown.sample), caption)


def figure(drawing: np.ndarray, caption: str) -> str:
    """A drawing [h, w, 3] (RGB, uint8) within the page; the caption is HTML."""
    _, jpeg = cv2.imencode(".jpg", drawing[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    content = base64.b64encode(jpeg.tobytes()).decode("ascii")
    return (
        f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{content}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )
