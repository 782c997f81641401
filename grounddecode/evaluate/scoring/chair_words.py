"""From the tokens of a caption to COCO objects: base forms, double words, synonyms, as CHAIR's programs read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from grounddecode.evaluate.language.singular import singular
from grounddecode.evaluate.language.tokens import words as tokenise
from grounddecode.evaluate.language.word_lists import data, word_list, word_table

#: Base forms of a caption's tokens, one for each.
BaseForms = Callable[[Sequence[str]], list[str]]


class Mention(NamedTuple):
    """One object named in a caption."""

    surface: str  #: the base form, or the merged double word, that was looked up
    object: str  #: the COCO category
    position: int  #: position in the token list before double words are merged


@dataclass(frozen=True)
class Reading:
    """What a caption says: its mentions in order, and its tokens after double words are merged."""

    mentions: tuple[Mention, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The synonym table (word to category) and the double words (first word, second word, what they count as)."""

    categories: Mapping[str, str]
    doubles: Mapping[str, Mapping[str, str]]


@cache
def official_vocabulary() -> Vocabulary:
    """The tables of the public programs, slips included."""
    table = {
        word: category
        for category, others in data("chair_words.json")["synonyms"].items()
        for word in (category, *others)
    }
    return Vocabulary(table, _pairs(data("chair_words.json")["double_words"]))


@cache
def fixed_vocabulary() -> Vocabulary:
    """The tables without their slips: see `grounddecode.evaluate.scoring.chair.score` for the list."""
    official = official_vocabulary()
    table = {word.strip().lower(): category for word, category in official.categories.items()}
    table |= {"racquet": "tennis racket", "tennis racquet": "tennis racket", "hair dryer": "hair drier"}
    doubles = {
        **data("chair_words.json")["double_words"],
        "tennis racquet": "tennis racquet",
        "hair dryer": "hair dryer",
    }
    del doubles["wine glas"]
    return Vocabulary(table, _pairs(doubles))


def _pairs(doubles: Mapping[str, str]) -> dict[str, dict[str, str]]:
    pairs: dict[str, dict[str, str]] = {}
    for both, merged in doubles.items():
        first, second = both.split(" ", 1)  # three words never fit the second place, as in the programs
        pairs.setdefault(first, {})[second] = merged
    return pairs


def read(caption: str, base_forms: BaseForms) -> Reading:
    """Read a caption as the public programs do; only the base forms differ between the flavours.

    When both "toilet" and "seat" occur, every "seat" is dropped, and the positions are then taken from the list that
    still holds them, so that they slip by one for each seat before: a bug of the programs that is kept here.
    """
    vocabulary = official_vocabulary()
    merged, places = merge(base_forms(tokenise(caption.lower())), vocabulary)
    kept = [word for word in merged if word != "seat"] if "toilet" in merged and "seat" in merged else merged
    return Reading(_look_up(kept, places, vocabulary), tuple(merged))


def read_fixed(caption: str) -> Reading:
    """Read a caption by our own rules, the flavour `fixed`."""
    vocabulary = fixed_vocabulary()
    tokens = tokenise(caption.lower())
    merged, places = merge(_plain_forms(tokens), vocabulary)
    kept = [
        (word, place)
        for word, place in zip(merged, places, strict=True)
        if not (word == "seat" and "toilet" in merged) and not _is_adjective(word, place, tokens)
    ]
    return Reading(_look_up([word for word, _ in kept], [place for _, place in kept], vocabulary), tuple(merged))


def merge(forms: Sequence[str], vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
    """Join double words from left to right; also the position of each result's first word."""
    doubles = vocabulary.doubles
    merged: list[str] = []
    places: list[int] = []
    place, last = 0, len(forms) - 1
    while place <= last:
        word = forms[place]
        places.append(place)
        if word in doubles and place < last and forms[place + 1] in doubles[word]:
            merged.append(doubles[word][forms[place + 1]])
            place += 2
        else:
            merged.append(word)
            place += 1
    return merged, places


def _look_up(words: Sequence[str], places: Sequence[int], vocabulary: Vocabulary) -> tuple[Mention, ...]:
    table = vocabulary.categories
    return tuple(Mention(word, table[word], place) for word, place in zip(words, places, strict=False) if word in table)


def pattern_forms(tokens: Sequence[str]) -> list[str]:
    """Base forms of the `pattern` flavour."""
    return [singular(token) for token in tokens]


_PLURALS = word_table("fixed_plurals")
_ADJECTIVES = frozenset(("orange", "remote"))
_AFTER_A_NOUN = frozenset(word_list("fixed_after_a_noun"))


def _plain_forms(tokens: Sequence[str]) -> list[str]:
    return [_plain_form(token) for token in tokens]


@cache
def _known_words() -> frozenset[str]:
    vocabulary = fixed_vocabulary()
    parts = {part for word in vocabulary.categories for part in word.split()}
    return frozenset(parts | {part for first, rest in vocabulary.doubles.items() for part in (first, *rest)})


def _plain_form(token: str) -> str:
    """The word itself when the tables have it, else its singular when they have that."""
    known = _known_words()
    if token in _PLURALS:
        return _PLURALS[token]
    if token in known:
        return token
    cuts = (("ies", "ie"), ("ies", "y"), ("ves", "fe"), ("ves", "f"), ("es", ""), ("s", ""))
    stems = (token[: -len(ending)] + one for ending, one in cuts if token.endswith(ending))
    return next((stem for stem in stems if stem in known), token)


def _is_adjective(word: str, place: int, tokens: Sequence[str]) -> bool:
    """Whether "orange" or "remote" qualifies the next word: "an orange cat", "a remote beach"."""
    following = tokens[place + 1] if place + 1 < len(tokens) else ""
    if tokens[place] not in _ADJECTIVES or word not in _ADJECTIVES:
        return False
    described = place > 0 and tokens[place - 1] in ("is", "are", "was", "were", "bright", "dark", "light", "and")
    return described or (following.isalpha() and following not in _AFTER_A_NOUN)
