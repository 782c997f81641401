"""Result tables of a run as text cells, with the paired difference from greedy beside each number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A number as text, its interval in small print, and "better", "worse" or "" (not told apart from greedy)."""

    text: str
    detail: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Table:
    """A caption, column names (the first one is the method's) and one row of cells a method."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
