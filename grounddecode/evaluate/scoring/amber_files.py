"""AMBER's own files: annotations, associated words, safe words, and what its counters start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from grounddecode.evaluate import json_lines


@dataclass(frozen=True)
class AmberData:
    """`annotations` (id - 1 is the position), `relation` (word to its associated words), `safe_words`, `counters`."""

    annotations: Sequence[Mapping[str, Any]]
    relation: Mapping[str, Sequence[str]]
    safe_words: frozenset[str]
    counters: Mapping[str, float]

    @property
    def words(self) -> set[str]:
        """The closed list that nouns are looked up in."""
        return {word for key, others in self.relation.items() for word in (key, *others)}


def load(folder: str | Path) -> AmberData:
    """Read AMBER's `data` folder: annotations.json, relation.json, safe_words.txt and, if it is there, metrics.txt."""
    folder = Path(folder)
    annotations = read_annotations(folder / "annotations.json")
    relation = read_relation(folder / "relation.json")
    safe_words = frozenset(json_lines.read_text(folder / "safe_words.txt").split("\n"))
    metrics = folder / "metrics.txt"
    return AmberData(annotations, relation, safe_words, counters(metrics) if metrics.is_file() else {})


def read_annotations(path: Path) -> list[Mapping[str, Any]]:
    """AMBER's annotations.json; id - 1 is the position.

    Raises:
        ValueError: it is not AMBER's.
    """
    found = json_lines.read_json(path)
    if not isinstance(found, list) or not all(map(_is_annotation, found)):
        raise ValueError(f"{path} is not AMBER's: give the files of one AMBER release.")
    return found


def read_relation(path: Path) -> dict[str, list[str]]:
    """AMBER's relation.json: a word to its associated words.

    Raises:
        ValueError: it is not AMBER's.
    """
    found = json_lines.read_json(path)
    if not isinstance(found, dict) or not all(map(_are_words, found.values())):
        raise ValueError(f"{path} is not AMBER's: give the files of one AMBER release.")
    return found


def _is_annotation(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        return False
    if found["type"] == "generative":
        return _are_words(found.get("truth")) and _are_words(found.get("hallu"))
    return isinstance(found.get("truth"), str)


def _are_words(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(word, str) for word in found)


def counters(path: Path) -> dict[str, float]:
    """The start values `name=number`; the program evaluates them as code, ours are numbers only."""
    found: dict[str, float] = {}
    for line in json_lines.read_text(path).splitlines():
        parts = line.strip().split("=")
        if len(parts) == 2:
            found[parts[0].strip()] = _start(parts[1], f"{path} has the line {line.strip()!r}")
    return found


def _start(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{where}, which is no number: give a number.") from None
    if not isfinite(value) or value < 0:
        raise ValueError(f"{where}, which no counter can start from: give a number of at least 0.")
    return value
