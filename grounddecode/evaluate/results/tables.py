"""Tables of results as text, Markdown, CSV and plain objects."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from grounddecode.evaluate.benchmarks.base import Column
from grounddecode.evaluate.intervals import Interval


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
    """One method, or the control that belongs to the method `of`; `sign` says what its differences are worth.

    Every difference is that of the row from greedy, a control's too.
    """

    label: str
    cells: dict[str, Cell]
    of: str = ""
    sign: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One part of a benchmark. Numbers are fractions; percent are made when it is shown.

    `notes` are sentences for the reader, which tables shown together have once.
    """

    benchmark: str
    split: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: tuple[str, ...] = ()

    def text(self, width: int | None = None) -> str:
        """Two lines a row: the numbers, and under them the differences from greedy with their intervals.

        Args:
            width: where a line would be longer, the columns are shown in several pieces one below the other, and what
                differences are worth at the end.
        """
        lines = self._whole()
        if width is not None and any(len(line) > width for line in lines):
            lines = self._pieces(width)
        return "\n".join([*_folded(self.caption, width), "", *lines])

    def _whole(self) -> list[str]:
        head = ["", *(column.heading for column in self.columns), "verdict"]
        lines = [[row.label, *(_value(row, c) for c in self.columns), row.sign] for row in self.rows]
        under = [["", *(" ".join(_small(row, c)) for c in self.columns), ""] for row in self.rows]
        widths = [max(len(line[at]) for line in [head, *lines, *under]) for at in range(len(head))]
        shown = [_aligned(head, widths)]
        for line, difference in zip(lines, under, strict=True):
            shown.append(_aligned(line, widths))
            if any(difference):
                shown.append(_aligned(difference, widths))
        return shown

    def _pieces(self, width: int) -> list[str]:
        """As many columns below each other as it takes, each number above its difference above its interval."""
        labels = [textwrap.wrap(row.label, max(8, width // 3)) for row in self.rows]
        first = max((len(part) for label in labels for part in label), default=0)
        cells = [[[_value(row, c), *_small(row, c)] for row in self.rows] for c in self.columns]
        wide = [
            max(len(c.heading), *(len(part) for cell in column for part in cell))
            for c, column in zip(self.columns, cells, strict=True)
        ]
        lines: list[str] = []
        for chosen in _filled(wide, width - first):
            head = "".join(f"  {self.columns[at].heading:>{wide[at]}}" for at in chosen)
            lines += ["", " " * first + head] if lines else [" " * first + head]
            for place, label in enumerate(labels):
                parts = [cells[at][place] for at in chosen]
                for at in range(max(len(label), *(len(part) for part in parts))):
                    shown = (
                        f"  {part[at] if at < len(part) else '':>{wide[c]}}"
                        for c, part in zip(chosen, parts, strict=True)
                    )
                    lines.append(f"{label[at] if at < len(label) else '':<{first}}{''.join(shown)}".rstrip())
        verdicts = [f"{row.label}: {row.sign}" for row in self.rows if row.sign]
        return [*lines, "", *(part for told in verdicts for part in _folded(told, width))] if verdicts else lines

    def markdown(self, notes: Sequence[str] = ()) -> str:
        """A caption, which the notes follow, and a table; differences that are for sure better or worse are bold."""
        head = ["method", *(column.heading for column in self.columns), "verdict"]
        rule = ["---", *("---:" for _ in self.columns), "---"]
        rows = [
            [row.label.replace("|", r"\|"), *(_marked(row, c) for c in self.columns), row.sign.replace("|", r"\|")]
            for row in self.rows
        ]
        caption = " ".join([f"{self.caption}.", *notes]) if notes else self.caption
        return "\n".join([caption, "", *(f"| {' | '.join(line)} |" for line in (head, rule, *rows))])

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
            "notes": list(self.notes),
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

    @property
    def notes(self) -> list[str]:
        """What the tables want to be known, each sentence once."""
        return list(dict.fromkeys(note for table in self.tables for note in table.notes))

    def text(self, width: int | None = None) -> str:
        """For a terminal, in lines of at most `width` columns."""
        notes = "\n".join(part for note in self.notes for part in _folded(note, width))
        return "\n\n".join([*(table.text(width) for table in self.tables), *filter(None, [notes])])

    def markdown(self) -> str:
        """For a README; the notes stand over the first table."""
        return "\n\n".join(table.markdown(() if at else self.notes) for at, table in enumerate(self.tables))

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


def _marked(row: Row, column: Column) -> str:
    """A number, and after a line break what is printed small."""
    small = " ".join(_small(row, column))
    bold = small and row.cells[column.key].verdict
    return "<br>".join(filter(None, (_value(row, column), f"**{small}**" if bold else small)))


def small_print(row: Row, column: Column) -> str:
    """A number's heading with its difference and interval: "CHAIR_i +1.2 [+0.3, +2.1]"."""
    return " ".join([column.heading, *_small(row, column)])


def _small(row: Row, column: Column) -> list[str]:
    """The difference and its interval; for the row that others are compared with, its own interval."""
    cell = row.cells.get(column.key, Cell(None))
    if cell.difference is not None and cell.difference_ci is not None:
        return [f"{cell.difference * column.scale:+z.{column.digits}f}", _interval(cell.difference_ci, column, "+")]
    return [_interval(cell.ci, column)] if cell.ci and cell.value is not None else []


def _interval(ci: Interval, column: Column, sign: str = "") -> str:
    low, high = ci
    if low is None or high is None:
        return "[-]"
    return f"[{low * column.scale:{sign}z.{column.digits}f}, {high * column.scale:{sign}z.{column.digits}f}]"


def _folded(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, width)


def _filled(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns in pieces that fit into the room, one at least in each."""
    piece: list[int] = []
    for at, width in enumerate(widths):
        if piece and sum(widths[c] + 2 for c in piece) + width + 2 > room:
            yield piece
            piece = []
        piece.append(at)
    yield piece


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *middle, last = line
    cells = [text.rjust(width) for text, width in zip(middle, widths[1:-1], strict=True)]
    return "  ".join([first.ljust(widths[0]), *cells, last]).rstrip()


def _bounds(name: str, ci: Interval | None) -> dict[str, float | None]:
    low, high = ci or [None, None]
    return {f"{name}_low": low, f"{name}_high": high}
