"""Tables of results as text, Markdown, CSV and plain objects."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from grounddecode.evaluate.stats import Interval


@dataclass(frozen=True)
class Column:
    """A number of the table: its key in the results, its heading, and what it is multiplied with when shown."""

    key: str
    heading: str
    scale: float = 1.0
    digits: int = 1


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval, and its difference from the row it is compared with."""

    value: float | None
    ci: Interval | None = None
    difference: float | None = None
    difference_ci: Interval | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Row:
    """One method, or the control that belongs to the method `of`; `sign` says what its difference is worth.

    In a control's cells the difference is that of its method from it.
    """

    label: str
    cells: dict[str, Cell]
    of: str = ""
    sign: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One part of a benchmark. Numbers are fractions; percent are made when it is shown."""

    benchmark: str
    split: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    def text(self) -> str:
        """Two lines a row: the numbers, and under them the differences from greedy with their intervals."""
        head = ["", *(column.heading for column in self.columns), "verdict"]
        lines = [[row.label, *(_value(row, c) for c in self.columns), row.sign] for row in self.rows]
        under = [["", *(_difference(row, c) for c in self.columns), ""] for row in self.rows]
        widths = [max(len(line[at]) for line in [head, *lines, *under]) for at in range(len(head))]
        shown = [self.caption, "", _aligned(head, widths)]
        for line, difference in zip(lines, under, strict=True):
            shown.append(_aligned(line, widths))
            if any(difference):
                shown.append(_aligned(difference, widths))
        return "\n".join(shown)

    def markdown(self) -> str:
        head = ["method", *(column.heading for column in self.columns), "verdict"]
        rule = ["---", *("---:" for _ in self.columns), "---"]
        rows = [
            [
                row.label,
                *("<br>".join(filter(None, (_value(row, c), _difference(row, c)))) for c in self.columns),
                row.sign,
            ]
            for row in self.rows
        ]
        return "\n".join([self.caption, "", *(f"| {' | '.join(line)} |" for line in (head, rule, *rows))])

    def records(self) -> Iterator[dict[str, Any]]:
        """One plain object a number."""
        for row in self.rows:
            for column in self.columns:
                cell = row.cells.get(column.key, Cell(None))
                yield {
                    "benchmark": self.benchmark,
                    "split": self.split,
                    "row": row.label,
                    "control_of": row.of,
                    "number": column.key,
                    "value": cell.value,
                    **_bounds("ci", cell.ci),
                    "difference": cell.difference,
                    **_bounds("difference", cell.difference_ci),
                    "verdict": cell.verdict,
                }

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "split": self.split,
            "caption": self.caption,
            "rows": [
                {"label": row.label, "control_of": row.of, "sign": row.sign, **row.notes}
                | {"numbers": {key: asdict(cell) for key, cell in row.cells.items()}}
                for row in self.rows
            ],
        }


@dataclass(frozen=True)
class Comparison:
    """All tables of a comparison."""

    tables: Sequence[Table]

    def text(self) -> str:
        """For a terminal."""
        return "\n\n".join(table.text() for table in self.tables)

    def markdown(self) -> str:
        """For a README."""
        return "\n\n".join(table.markdown() for table in self.tables)

    def csv(self) -> str:
        """One line a number, all tables in one."""
        records = [record for table in self.tables for record in table.records()]
        target = io.StringIO()
        writer = csv.DictWriter(target, list(records[0]) if records else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return target.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"tables": [table.to_dict() for table in self.tables]}


def _value(row: Row, column: Column) -> str:
    cell = row.cells.get(column.key)
    if cell is None or cell.value is None:
        return "-"
    return f"{cell.value * column.scale:z.{column.digits}f}"


def _difference(row: Row, column: Column) -> str:
    """The difference with its interval; for the row that others are compared with, its own interval."""
    cell = row.cells.get(column.key, Cell(None))
    if cell.difference is not None and cell.difference_ci is not None:
        return f"{cell.difference * column.scale:+z.{column.digits}f} {_interval(cell.difference_ci, column, '+')}"
    return _interval(cell.ci, column) if cell.ci else ""


def _interval(ci: Interval, column: Column, sign: str = "") -> str:
    low, high = ci
    if low is None or high is None:
        return ""
    return f"[{low * column.scale:{sign}z.{column.digits}f}, {high * column.scale:{sign}z.{column.digits}f}]"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *middle, last = line
    cells = [text.rjust(width) for text, width in zip(middle, widths[1:-1], strict=True)]
    return "  ".join([first.ljust(widths[0]), *cells, last]).rstrip()


def _bounds(name: str, ci: Interval | None) -> dict[str, float | None]:
    low, high = ci or [None, None]
    return {f"{name}_low": low, f"{name}_high": high}
