"""Tables that put runs and methods side by side, with their controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """Tables of runs: rendered as text, Markdown, CSV or plain objects."""

    tables: Sequence[Any]

    def text(self) -> str:
        raise RuntimeError("the comparison is being built")

    def markdown(self) -> str:
        raise RuntimeError("the comparison is being built")

    def csv(self) -> str:
        raise RuntimeError("the comparison is being built")

    def to_dict(self) -> dict[str, Any]:
        raise RuntimeError("the comparison is being built")


def compare(runs: Sequence[Path | str], benchmarks: Sequence[str] | None = None) -> Comparison:
    """Methods and controls of one or several run folders, side by side."""
    raise RuntimeError("the comparison is being built")
