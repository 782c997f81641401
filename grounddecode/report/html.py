"""One self-contained HTML page about a run: results, pictures, and what every method said about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import cycle
from typing import TYPE_CHECKING

from grounddecode.report.embed import breaking, data_uri, document
from grounddecode.report.overlay import PALETTE, place_tags
from grounddecode.report.plots import forest, scatter
from grounddecode.report.samples import script

if TYPE_CHECKING:
    from grounddecode.evaluate.benchmarks.base import Column
    from grounddecode.evaluate.results.tables import Cell, Row, Table
    from grounddecode.report.cases import Case, Said
    from grounddecode.report.marks import Mark
    from grounddecode.report.overlay import Box, Rectangle
    from grounddecode.report.provenance import Facts

LARGEST = 900  # pixels of the longer side of a picture of a gallery
# Pointing at a marked word shows its box alone.
SCRIPT = """
for (const article of document.querySelectorAll("article")) {
  const boxes = article.querySelectorAll("g[data-object]");
  const show = name => boxes.forEach(b => b.classList.toggle("dim", name !== null && b.dataset.object !== name));
  for (const word of article.querySelectorAll("[data-points]")) {
    word.addEventListener("pointerenter", () => show(word.dataset.points));
    word.addEventListener("pointerleave", () => show(null));
  }
}
"""


@dataclass(frozen=True)
class Gallery:
    """Pictures under one heading; `chosen` says how they were chosen."""

    heading: str
    chosen: str
    cases: Sequence[Case]


def page(
    title: str,
    lede: str,
    tables: Sequence[Table],
    galleries: Sequence[Gallery],
    facts: Sequence[Facts],
    samples: str = "",
) -> str:
    """The whole page as text.

    Args:
        lede: one or two sentences under the title.  samples: the section of `grounddecode.report.samples`.
        facts: the provenance, what matters most first; the rest is folded away.
    """
    style = files("grounddecode.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(
        (
            f"<header><h1>{escape(title)}</h1><p>{breaking(lede)}</p></header>",
            "<main>",
            _results(tables),
            _pictures([gallery for gallery in galleries if gallery.cases]),
            samples,
            "</main>",
            _footer(facts),
        )
    )
    return document(title, style, body, SCRIPT + script())


def _results(tables: Sequence[Table]) -> str:
    if not tables:
        return ""
    shown = "\n".join(_table(table) for table in tables)
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    shown += "".join(f'\n<p class="soft">{escape(note)}</p>' for note in notes)
    return f'<section id="results"><h2>Results</h2>\n{shown}</section>'


def _table(table: Table) -> str:
    names = ["method", *(column.heading for column in table.columns), "verdict"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    return (
        f'<p class="caption">{escape(table.caption)}</p>{forest(table)}{scatter(table)}'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.caption)}"><table>'
        f"<thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(_row(row, table.columns) for row in table.rows)}</tbody></table></div>"
    )


def _row(row: Row, columns: Sequence[Column]) -> str:
    """One row; a control's stands back, and its small print carries the colour alone."""
    if not row.cells:  # a method that the model has refused
        return (
            f'<tr class="control"><th scope="row">{breaking(row.label)}</th>'
            f'<td class="said-why" colspan="{len(columns) + 1}">{escape(row.sign)}</td></tr>'
        )
    kind = ' class="control"' if row.of else ""
    cells = "".join(_cell(row.cells.get(column.key), column) for column in columns)
    said = f'<td data-heading="verdict">{breaking(row.sign)}</td>'
    return f'<tr{kind}><th scope="row">{breaking(row.label)}</th>{cells}{said}</tr>'


def _cell(cell: Cell | None, column: Column) -> str:
    heading = f' data-heading="{escape(column.heading)}"'
    if cell is None or cell.value is None:
        return f"<td{heading}>-</td>"
    number = _shown(cell.value, column)
    small = "".join(f"<small>{line}</small>" for line in _small_print(cell, column))
    kind = f' class="{escape(cell.verdict)}"' if cell.verdict else ""
    return f"<td{heading}{kind}>{number}{small}</td>"


def _small_print(cell: Cell, column: Column) -> Iterator[str]:
    """The difference and its interval, or the number's own interval where it is compared with nothing."""
    compared = cell.difference is not None
    if cell.difference is not None:
        yield _shown(cell.difference, column, "+")
    bounds = cell.difference_ci if compared else cell.ci
    if bounds is not None:
        low, high = bounds
        if low is not None and high is not None:
            sign = "+" if compared else ""
            yield f"[{_shown(low, column, sign)}, {_shown(high, column, sign)}]"


def _shown(value: float, column: Column, sign: str = "") -> str:
    # `z` of the format language makes -0.0 a plain zero.
    return f"{value * column.scale:{sign}z.{column.digits}f}"


def _pictures(galleries: Sequence[Gallery]) -> str:
    if not galleries:
        return ""
    legend = (
        '<ul class="legend"><li><mark class="real">word</mark> names an object that is in the picture</li>'
        '<li><mark class="invented">word</mark> names an object that is not there (hallucinated)</li>'
        '<li><span class="missed">word</span> is in the picture and was not named</li></ul>'
    )
    shown = "\n".join(map(_gallery, galleries))
    return (
        '<section id="pictures"><h2>Pictures</h2><p class="soft">Point at a marked word to see its box alone.</p>'
        f"{legend}\n{shown}</section>"
    )


def _gallery(gallery: Gallery) -> str:
    shown = "\n".join(_case(case) for case in gallery.cases)
    return f'<h3>{escape(gallery.heading)}</h3><p class="soft">{escape(gallery.chosen)}</p>\n{shown}'


def _case(case: Case) -> str:
    chips = "".join(f'<li data-points="{escape(name)}">{escape(name)}</li>' for name in case.objects)
    said = "\n".join(_said(one) for one in case.said)
    return (
        f"<article><figure>{_figure(case)}<figcaption>{escape(case.label)}</figcaption></figure><div>"
        f'<div class="truth"><h3>In the picture</h3><ul class="chips">{chips}</ul></div>\n{said}</div></article>'
    )


def _figure(case: Case) -> str:
    """The picture once, its boxes over it as shapes, so that both stay sharp at any size."""
    if case.image is None:
        return '<p class="gone">The picture is not where it was.</p>'
    wide, high = case.image.size
    letter = wide / 27
    sizes = [(0.56 * letter * len(box.label) + 0.6 * letter, 1.25 * letter) for box in case.boxes]
    tags = place_tags(case.boxes, sizes, (wide, high))
    shapes = zip(case.boxes, tags, cycle(PALETTE))
    boxes = "".join(_box(box, tag, colour, letter) for box, tag, colour in shapes)
    words = f"Picture {case.label} with {', '.join(case.objects) or 'no known object'}"
    return (
        f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="{escape(words)}">'
        f'<image href="{data_uri(case.image, LARGEST)}" width="{wide}" height="{high}"/>{boxes}</svg>'
    )


def _box(box: Box, tag: Rectangle, colour: str, letter: float) -> str:
    left, top, wide, _ = tag
    return (
        f'<g data-object="{escape(box.label)}"><rect class="halo" {_shape(box.bbox)}/>'
        f'<rect class="edge" {_shape(box.bbox)} stroke="{colour}"/><rect {_shape(tag)} style="fill:{colour}"/>'
        f'<text x="{left + 0.3 * letter:.2f}" y="{top + 0.95 * letter:.2f}" font-size="{letter:.2f}" '
        f'textLength="{wide - 0.6 * letter:.2f}" lengthAdjust="spacingAndGlyphs">{escape(box.label)}</text></g>'
    )


def _shape(place: Rectangle) -> str:
    x, y, wide, high = place
    return f'x="{x:.2f}" y="{y:.2f}" width="{wide:.2f}" height="{high:.2f}"'


def _said(said: Said) -> str:
    if said.same_as:
        return (
            f'<div class="said"><h3>{breaking(said.method)}</h3>'
            f'<p class="soft">word for word the caption of {escape(said.same_as)}</p></div>'
        )
    missed = "".join(
        f' <span class="missed" data-points="{escape(name)}">{escape(name)}</span>' for name in said.missed
    )
    tail = f"; not named:{missed}" if missed else ""
    counts = f"{said.n_words} words, {said.n_invented} of {len(said.marks)} mentions hallucinated"
    return (
        f'<div class="said"><h3>{breaking(said.method)}</h3><p>{marked(said.text, said.marks)}</p>'
        f'<p class="soft">{counts}{tail}</p></div>'
    )


def marked(text: str, marks: Iterable[Mark]) -> str:
    pieces, at = [], 0
    for one in marks:
        kind = "real" if one.real else "invented"
        hint = f"{one.object}: {'in the picture' if one.real else 'not in the picture'}"
        word = escape(text[one.start : one.stop])
        pieces += [
            escape(text[at : one.start]),
            f'<mark class="{kind}" title="{escape(hint)}" data-points="{escape(one.object)}">{word}</mark>',
        ]
        at = one.stop
    return "".join(pieces) + escape(text[at:])


def _footer(facts: Sequence[Facts]) -> str:
    first = "".join(_listed(group) for group in facts if not group.heading)
    rest = "".join(
        f"<details><summary>{escape(group.heading)}</summary>{_listed(group)}</details>"
        for group in facts
        if group.heading
    )
    return (
        "<footer><h2>Where this comes from</h2>"
        "<p>A mark says what the CHAIR rule counts, which knows a fixed list of objects; it is no proof of what the "
        "model saw. Intervals are 95 % paired bootstrap intervals, resampled by picture.</p>"
        f"{first}{rest}</footer>"
    )


def _listed(group: Facts) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in group.values)
    return f"<dl>{rows}</dl>"
