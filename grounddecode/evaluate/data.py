"""Benchmark data on disk: what is needed, what is missing, and getting it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Report:
    """What is there of a benchmark's data, and what is missing with where to get it."""

    name: str
    ok: bool
    files: tuple[Any, ...]

    def text(self) -> str:
        raise RuntimeError("the data check is being built")

    def to_dict(self) -> dict[str, Any]:
        raise RuntimeError("the data check is being built")


def names() -> list[str]:
    """Names of the data sets."""
    return ["coco", "pope", "chair", "amber", "mme"]


def check(name: str, root: Path | str) -> Report:
    """What of the data of a benchmark lies under `root`."""
    raise RuntimeError("the data check is being built")


def get(name: str, root: Path | str, progress: Callable[[str, int, int], None] | None = None) -> Report:
    """Download what is missing of a benchmark's data, with resume and checksum. `progress(file, bytes, of)`."""
    raise RuntimeError("the data check is being built")
