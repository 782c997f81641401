"""When two words count as one in AMBER: equal, listed in a table, or close in the vectors of a spaCy model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from grounddecode.evaluate import json_lines

OFFICIAL_MODEL, OFFICIAL_THRESHOLD = "en_core_web_lg", 0.8


class Similarity:
    """Says which words are similar to a word; `official` where that is what AMBER's program says."""

    def __init__(self, name: str, near: Callable[[str], Container[str]], official: bool = False) -> None:
        self.name = name
        self.official = official
        self._near = cache(near)

    def first(self, word: str, candidates: Mapping[str, int]) -> int | None:
        """The value of the first candidate, in their order, that is similar to a word."""
        near = self._near(word)
        if isinstance(near, tuple):  # nothing but the word itself
            return candidates.get(word)
        return next((value for candidate, value in candidates.items() if candidate in near), None)


class _Close:
    """The words that a model finds close to one word, compared when asked for."""

    def __init__(self, word: str, closeness: Callable[[str, str], float]) -> None:
        self._word = word
        self._closeness = closeness

    def __contains__(self, other: object) -> bool:
        return self._word == other or self._closeness(self._word, str(other)) > OFFICIAL_THRESHOLD


def check(name: str) -> None:
    """Raise ValueError for what is no name of a similarity; whether its data are there shows when it is opened."""
    kind, _, rest = name.partition(":")
    if not (name == "exact" or kind == "spacy" or (kind == "table" and rest)):
        raise ValueError(f"there is no similarity {name!r}: choose exact, table:FILE or spacy.")


def similarity(name: str) -> Similarity:
    """`exact` (equal words only), `table:FILE` (pairs written by `write_table`), `spacy` or `spacy:MODEL`.

    Raises:
        ValueError: another name, or a file that is no table.
        RuntimeError: spaCy or its model is not installed.
    """
    check(name)
    kind, _, rest = name.partition(":")
    if kind == "exact":
        return Similarity(name, lambda word: (word,))
    if kind == "table":
        return _table(name, rest)
    model = rest or OFFICIAL_MODEL
    closeness = _closeness(model)
    return Similarity(name, lambda word: _Close(word, closeness), model == OFFICIAL_MODEL)


def _table(name: str, path: str) -> Similarity:
    table = json_lines.read_json(path)
    if not isinstance(table, dict) or not _are_pairs(table.get("pairs")):
        raise ValueError(
            f"{path} is no table of similar words: write one with python -m grounddecode.evaluate.language.similarity."
        )
    near: dict[str, set[str]] = {}
    for one, other in table["pairs"]:
        near.setdefault(one, {one}).add(other)
        near.setdefault(other, {other}).add(one)
    official = table.get("model") == OFFICIAL_MODEL and table.get("threshold") == OFFICIAL_THRESHOLD
    return Similarity(name, lambda word: near.get(word, (word,)), official)


def _are_pairs(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair) for pair in found
    )


def _closeness(model: str) -> Callable[[str, str], float]:
    try:
        pipeline = importlib.import_module("spacy").load(model)
    except (ImportError, OSError) as error:
        raise RuntimeError(
            f"the spaCy model {model} cannot be loaded ({type(error).__name__}): install spacy and run "
            f"`python -m spacy download {model}`, or use the similarity exact or table:FILE."
        ) from None

    @cache
    def document(word: str) -> Any:
        return pipeline(word)

    @cache
    def closeness(one: str, other: str) -> float:
        return float(document(one).similarity(document(other)))

    return closeness


def write_table(words: Iterable[str], path: str | Path, model: str = OFFICIAL_MODEL) -> int:
    """Compare every two words by a spaCy model and write the similar pairs; returns how many there are.

    With the 418 words of AMBER's relation.json and the official model the table gives AMBER's own numbers, without
    spaCy. The direction matters to no pair: the similarity is a cosine.
    """
    closeness = _closeness(model)
    listed = sorted(set(words))
    pairs = [
        [one, other]
        for place, one in enumerate(listed)
        for other in listed[place + 1 :]
        if closeness(one, other) > OFFICIAL_THRESHOLD
    ]
    header = {"model": model, "threshold": OFFICIAL_THRESHOLD, "words": len(listed)}
    json_lines.write(path, [{**header, "pairs": pairs}])
    return len(pairs)


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="Write AMBER's table of similar words with a spaCy model.")
    parser.add_argument("--data", type=Path, required=True, help="AMBER's data folder, with relation.json")
    parser.add_argument("--out", type=Path, required=True, help="the table to write")
    parser.add_argument("--model", default=OFFICIAL_MODEL)
    options = parser.parse_args()
    try:
        relation = json_lines.read_json(options.data / "relation.json")
        with json_lines.shaped(options.data / "relation.json", "AMBER's"):
            words = [word for key, others in relation.items() for word in (key, *others)]
        write_table(words, options.out, options.model)
    except (OSError, RuntimeError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    _main()
