"""Plots of tables as parts of a page: differences from greedy with their intervals, and recall against CHAIR."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from grounddecode.evaluate.benchmarks.table import measure_of
from grounddecode.report.embed import breaking

if TYPE_CHECKING:
    from grounddecode.evaluate.benchmarks.base import Column
    from grounddecode.evaluate.results.tables import Cell, Row, Table

SIGNS = {"better": "▲ better", "worse": "▼ worse", "": "not told apart"}
WIDE, HIGH, EDGE, DOT = 640.0, 400.0, 64.0, 11.0  # drawing units of the scatter plot


# -- differences -------------------------------------------------------------------------------------------------------
def forest(table: Table) -> str:
    """Differences from greedy of the numbers that the benchmark is about: a dot and its interval a method and control.

    "" where nothing is compared.
    """
    wanted = measure_of(table.benchmark, table.split)
    keys = dict.fromkeys((*wanted.headlines, "recall")) if wanted.captions else dict.fromkeys(wanted.headlines)
    columns = [column for key in keys for column in table.columns if column.key == key]
    plots = "".join(_forest(table, column, wanted.directions.get(column.key)) for column in columns)
    return f'<div class="forests">{plots}</div>' if plots else ""


def _forest(table: Table, column: Column, more_is_better: bool | None) -> str:
    rows = [(row, cell) for row in table.rows if (cell := row.cells.get(column.key)) and _compared(cell)]
    if not rows:
        return ""
    reach = max(abs(value) for _, cell in rows for value in (*_bounds(cell), cell.difference or 0.0)) or 1.0
    lines = "".join(_line(row, cell, column, 1.08 * reach) for row, cell in rows)
    side = {True: "right is better", False: "left is better", None: ""}[more_is_better]
    unit = "points" if column.scale != 1.0 else ""
    return (
        f'<div class="forest"><h4>{escape(column.heading)}: difference from greedy'
        f'<span class="soft"> {" · ".join(filter(None, [unit, side]))}</span></h4>{lines}</div>'
    )


def _compared(cell: Cell) -> bool:
    return cell.difference is not None and cell.difference_ci is not None and None not in cell.difference_ci


def _bounds(cell: Cell) -> tuple[float, float]:
    low, high = cell.difference_ci or [None, None]
    return low or 0.0, high or 0.0


def _line(row: Row, cell: Cell, column: Column, reach: float) -> str:
    """One row: name, the interval on a line whose middle is no difference, and the numbers."""
    low, high = _bounds(cell)
    at = [50 + 50 * value / reach for value in (low, cell.difference or 0.0, high)]
    kind = " ".join(filter(None, ["line", "control" if row.of else "", cell.verdict]))
    number = f"{(cell.difference or 0.0) * column.scale:+z.{column.digits}f}"
    bounds = f"[{low * column.scale:+z.{column.digits}f}, {high * column.scale:+z.{column.digits}f}]"
    sign = SIGNS[cell.verdict] if not row.of else "control"
    return (
        f'<div class="{escape(kind)}"><span class="name">{breaking(row.label)}</span>'
        f'<span class="track"><i class="bar" style="left:{at[0]:.2f}%;width:{at[2] - at[0]:.2f}%"></i>'
        f'<i class="dot" style="left:{at[1]:.2f}%"></i></span>'
        f'<span class="number">{number} {bounds}</span><span class="sign">{escape(sign)}</span></div>'
    )


# -- recall against CHAIR ----------------------------------------------------------------------------------------------
def scatter(table: Table) -> str:
    """How much captions name of what is there, against how much of what they name is not; "" for other tables."""
    across, up = (next((c for c in table.columns if c.key == key), None) for key in ("recall", "chair_i"))
    if across is None or up is None:
        return ""
    points = [
        (row, x, y)
        for row in table.rows
        if (x := _known(row.cells.get("recall"))) and (y := _known(row.cells.get("chair_i")))
    ]
    if not points:
        return ""
    sides = _range([cell for _, cell, _ in points]), _range([cell for _, _, cell in points])
    at = [(_place(x.value or 0.0, sides[0], False), _place(y.value or 0.0, sides[1], True)) for _, x, y in points]
    marks = "".join(
        _point(number, row, here, shown, _arms(x, y, here, sides))
        for number, ((row, x, y), here, shown) in enumerate(zip(points, at, _spread(at), strict=True), 1)
    )
    names = "".join(
        f"<li{' class=control' if row.of else ''}><b>{number}</b> {breaking(row.label)}</li>"
        for number, (row, _, _) in enumerate(points, 1)
    )
    return (
        '<div class="scatter"><h4>Recall against CHAIR_i<span class="soft"> · better to the right and down</span></h4>'
        f'<svg viewBox="0 0 {WIDE:g} {HIGH:g}" role="img" aria-label="Recall against CHAIR_i, as in the table">'
        f"{''.join(_axes(sides))}{marks}</svg><ul>{names}</ul></div>"
    )


def _known(cell: Cell | None) -> Cell | None:
    return cell if cell is not None and cell.value is not None else None


def _range(cells: Sequence[Cell]) -> tuple[float, float]:
    values = [bound for cell in cells for bound in (cell.value, *(cell.ci or [])) if bound is not None]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.02
    return max(0.0, low - room), min(1.0, high + room)


def _place(value: float, side: tuple[float, float], upright: bool) -> float:
    share = (value - side[0]) / (side[1] - side[0])
    return HIGH - EDGE - share * (HIGH - 1.5 * EDGE) if upright else EDGE + share * (WIDE - 1.5 * EDGE)


Sides = tuple[tuple[float, float], tuple[float, float]]


def _axes(sides: Sides) -> Iterator[str]:
    foot, left, right, top = HIGH - EDGE, EDGE, WIDE - EDGE / 2, EDGE / 2
    yield f'<path class="axis" d="M{left} {top}V{foot}H{right}"/>'
    for x in _ticks(sides[0]):
        px = _place(x / 100, sides[0], False)
        yield f'<text x="{px:.1f}" y="{foot + 24}" text-anchor="middle">{x:g}</text>'
    for y in _ticks(sides[1]):
        py = _place(y / 100, sides[1], True)
        yield f'<text x="{left - 10}" y="{py + 5:.1f}" text-anchor="end">{y:g}</text>'
    yield f'<text x="{(left + right) / 2}" y="{HIGH - 8}" text-anchor="middle">recall, %</text>'
    yield f'<text x="{left - 46}" y="{top - 14}">CHAIR_i, %</text>'


def _ticks(side: tuple[float, float]) -> list[float]:
    """Round numbers in percent on a side, at most six."""
    low, high = 100 * side[0], 100 * side[1]
    steps = (base * 10.0**power for power in range(-4, 3) for base in (1, 2, 5))
    step = next((one for one in steps if (high - low) / one <= 5), 50.0)
    return [round(at * step, 6) for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _spread(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Where the numbers of points go: at their points, or to the right of those that stand there."""
    placed: list[tuple[float, float]] = []
    for x, y in points:
        while any(abs(x - px) < 2 * DOT and abs(y - py) < 2 * DOT for px, py in placed):
            x += 2 * DOT
        placed.append((x, y))
        yield x, y


def _point(number: int, row: Row, at: tuple[float, float], shown: tuple[float, float], arms: str) -> str:
    (x, y), (sx, sy) = at, shown
    lead = f"M{x:.1f} {y:.1f}L{sx:.1f} {sy:.1f}" if at != shown else ""
    return (
        f'<g class="{"control" if row.of else "method"}"><path d="{arms}{lead}"/>'
        f'<circle cx="{sx:.1f}" cy="{sy:.1f}" r="{DOT:g}"/>'
        f'<text class="in" x="{sx:.1f}" y="{sy + 5:.1f}" text-anchor="middle">{number}</text></g>'
    )


def _arms(x: Cell, y: Cell, at: tuple[float, float], sides: Sides) -> str:
    """The intervals of both numbers as lines through the point."""
    (left, right), (low, high) = (_bounds_of(x, sides[0], False), _bounds_of(y, sides[1], True))
    across = f"M{left:.1f} {at[1]:.1f}H{right:.1f}" if left != right else ""
    return across + (f"M{at[0]:.1f} {low:.1f}V{high:.1f}" if low != high else "")


def _bounds_of(cell: Cell, side: tuple[float, float], upright: bool) -> tuple[float, float]:
    low, high = cell.ci or (None, None)
    return (0.0, 0.0) if low is None or high is None else (_place(low, side, upright), _place(high, side, upright))
