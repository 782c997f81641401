"""Words of an answer: where each stands in the text, and which tokens it is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Decode = Callable[[list[int]], str]

_WORD = re.compile(r"\w+(?:['’\-]\w+)*")
_NO_SPACES = "\u2e80"  # scripts from here on are written without spaces: there a token is a word


@dataclass(frozen=True)
class Word:
    """Characters `start` to `stop` of the text, made of the tokens `first` to `last` (inclusive) of the answer."""

    text: str
    start: int
    stop: int
    first: int
    last: int


def read_words(tokens: Sequence[int], decode: Decode) -> tuple[str, tuple[Word, ...]]:
    """The text of an answer and its words, in order; signs that are no letter or digit belong to none.

        text, words = read_words(ids, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))

    Args:
        tokens: the answer.  decode: gives the text of some tokens.
    """
    text, spans = token_spans(tokens, decode)
    found = (piece for match in _WORD.finditer(text) for piece in _cut(match.start(), match.end(), text, spans))
    return text, tuple(word for word in found if word.text)


def token_spans(tokens: Sequence[int], decode: Decode) -> tuple[str, list[tuple[int, int]]]:
    """The text, and where in it each token stands; of tokens that share a character, each has it.

    Each token is what the text grows by. So blanks go with what follows them, whatever the tokenizer makes of them.
    """
    text, spans = "", []
    for n in range(len(tokens)):
        grown = decode(list(tokens[: n + 1]))
        spans.append((_shared(text, grown), len(grown)))
        text = grown
    return text, [(min(start, len(text)), min(stop, len(text))) for start, stop in spans]


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common from the start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _cut(start: int, stop: int, text: str, spans: Sequence[tuple[int, int]]) -> list[Word]:
    """A run of letters as one word, or token by token in a script without spaces."""
    within = [n for n, (left, right) in enumerate(spans) if left < stop and right > start]
    if not within:
        return []
    if text[start] < _NO_SPACES:
        return [Word(text[start:stop], start, stop, within[0], within[-1])]
    edges = [(n, max(start, spans[n][0]), min(stop, spans[n][1])) for n in within]
    return [Word(text[left:right], left, right, n, n) for n, left, right in edges if right > left]
