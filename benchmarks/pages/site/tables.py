"""Tables of Markdown files, cut down to the rows that name a method."""

from __future__ import annotations

import re
from pathlib import Path


def tables(text: str) -> list[list[str]]:
    """The tables of a Markdown text, each a list of lines: head, rule, rows."""
    return [block.strip().splitlines() for block in re.findall(r"(?:^\|.*\|$\n?){3,}", text, re.MULTILINE)]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def joined(row: list[str]) -> str:
    return f"| {' | '.join(row)} |"


def about(path: Path, column: str, name: str, *beside: str) -> str:
    """The first table with this column, only rows whose cell there names the method, alone or in a pair.

    Args:
        column: heading of the column that names methods or plans.
        beside: plans that are kept too, to compare with.

    Returns:
        "" where there is no such table, or the method is in none of its rows.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for head, rule, *rows in tables(text):
        if column in cells(head):
            at = cells(head).index(column)
            mine = [row for row in rows if name in parts(cells(row)[at])]
            others = [row for row in rows if cells(row)[at].strip("`") in beside]
            return "\n".join([head, rule, *others, *mine]) if mine else ""
    return ""


def parts(cell: str) -> list[str]:
    """The words of a plan in a cell: `` `locore:beta=0.3+avc` `` has locore and avc."""
    return [part.partition(":")[0].strip() for part in re.split(r"\+(?![\d.])", cell.strip("`* "))]


def column_of(path: Path, name: str) -> str:
    """Two columns of a table whose head names plans: the first one, and those of the method."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for head, _, *rows in tables(text):
        heads = cells(head)
        mine = [at for at, cell in enumerate(heads) if at and cell.partition("-")[0].partition("+")[0] == name]
        if mine:
            kept = [[cells(row)[at] for at in (0, *mine)] for row in (head, *rows)]
            return "\n".join([joined(kept[0]), joined(["---"] * len(kept[0])), *map(joined, kept[1:])])
    return ""
