"""AMBER's own files: annotations, associated words, safe words, and what its counters start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grounddecode.evaluate import records


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
    annotations = records.read_json(folder / "annotations.json")
    relation = records.read_json(folder / "relation.json")
    if not isinstance(annotations, list) or not all(map(_is_annotation, annotations)):
        raise ValueError(f"{folder / 'annotations.json'} is not AMBER's: give the files of one AMBER release.")
    if not isinstance(relation, dict) or not all(map(_are_words, relation.values())):
        raise ValueError(f"{folder / 'relation.json'} is not AMBER's: give the files of one AMBER release.")
    try:
        safe_words = frozenset((folder / "safe_words.txt").read_text("utf-8").split("\n"))
    except OSError as error:
        raise ValueError(f"{folder / 'safe_words.txt'} cannot be read ({error.strerror}): give AMBER's data.") from None
    metrics = folder / "metrics.txt"
    return AmberData(annotations, relation, safe_words, counters(metrics) if metrics.is_file() else {})


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
    for line in path.read_text("utf-8").splitlines():
        parts = line.strip().split("=")
        if len(parts) == 2:
            try:
                found[parts[0].strip()] = float(parts[1])
            except ValueError:
                raise ValueError(f"{path} has the line {line.strip()!r}, which is no number: give a number.") from None
    return found
