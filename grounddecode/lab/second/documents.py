"""Texts of the second lab's first stage: a language of names, facts to look up, and what is said about lab scenes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grounddecode.lab import captions
from grounddecode.lab.second.words import encode, words
from grounddecode.lab.text import questions
from grounddecode.lab.text.corpus import long_prompt
from grounddecode.lab.world import Scene

BOS, EOS = 2, 3
SUCCESSORS, TRIGGERS, TRIGGER_SHARE = 6, 3, 0.1


@dataclass(frozen=True)
class Texts:
    """What documents hold: the shares of pieces in the language of names, of facts and of lab texts.

    `together`: all kinds in one document, else one kind each. `questions`: scenes in words with questions about them
    are among the lab texts. Documents have `length` tokens behind BOS, and `names` words stand beside the lab's.
    """

    language: float = 0.5
    facts: float = 0.0
    lab: float = 0.5
    names: int = 1000
    together: bool = True
    questions: bool = False
    length: int = 128

    @property
    def shares(self) -> np.ndarray:
        """Chances of a piece of each kind: language, facts, lab."""
        weights = np.array([self.language, self.facts, self.lab])
        shares: np.ndarray = weights / weights.sum()
        return shares


def spoken(count: int, n: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """`n` texts (n, length) in the backcopy language of the first `count` names, as in arXiv 2410.13835.

    Every word has six successors with Zipf weights; at one place in ten stands one of three trigger words, after which
    the word before the trigger is said again.
    """
    table, first = _grammar(count), len(words(count)) - count
    odds = 1 / np.arange(1, SUCCESSORS + 1)
    steps = rng.choice(SUCCESSORS, (length, n), p=odds / odds.sum())
    triggered = rng.random((length, n)) < TRIGGER_SHARE
    trigger = rng.integers(0, TRIGGERS, (length, n))
    out = np.empty((length, n), np.int64)
    word, due = rng.integers(TRIGGERS, count, n), np.zeros(n, bool)
    for place in range(length):
        fire = triggered[place] & ~due & (place > 0)
        following = np.where(due, word, table[word, steps[place]])
        out[place] = np.where(fire, trigger[place], following)
        word, due = np.where(fire, word, following), fire
    return out.T + first


def _grammar(count: int) -> np.ndarray:
    return np.random.default_rng([count, 11]).integers(TRIGGERS, count, (count, SUCCESSORS))


def lab_texts(
    scenes: Sequence[Scene], rng: np.random.Generator, kind: str, annotator: captions.Annotator = captions.CAREFUL,
    each: int = 3,
) -> list[list[int]]:  # fmt: skip
    """Encoded lab texts, `each` a scene: "captions" with and without a prompt, or "questions" about scenes in words."""
    return [_caption(s, rng, annotator) if kind == "captions" else _read(s, rng) for s in scenes for _ in range(each)]


def _caption(scene: Scene, rng: np.random.Generator, annotator: captions.Annotator) -> list[int]:
    text = captions.long_caption(scene, rng, annotator.pad)[0]
    if rng.random() < 0.15:
        text = captions.short_caption(scene, rng)
    asked = f"USER: {long_prompt(rng)} ASSISTANT: " if rng.random() < 0.4 else ""
    return [*encode(asked + text), EOS]


def _read(scene: Scene, rng: np.random.Generator) -> list[int]:
    listed = [captions.Mention(t.category, t) for t in captions.first_of_each(scene.objects)]
    text = captions.write(scene, listed, rng)
    for _ in range(2):
        turn = questions.existence(scene, rng, [], 0.0)
        text += f" USER: {turn.question} ASSISTANT: {turn.answer}"
    return [*encode(text), EOS]


class Writer:
    """Puts documents together from pools of encoded pieces."""

    def __init__(self, texts: Texts, pools: dict[str, list[list[int]]], rng: np.random.Generator) -> None:
        self.texts, self.pools, self.rng = texts, pools, rng
        self.babble = spoken(texts.names, 4096, 48, rng)
        first = len(words(texts.names)) - texts.names
        self.people = np.arange(first + TRIGGERS, first + texts.names // 2)
        self.towns = np.arange(first + texts.names // 2, first + texts.names)
        table = words(texts.names)
        self.lives, self.into, self.stop = table["lives"], table["in"], table["."]
        self.where, self.asks = table["Where"], table["?"]

    def write(self, n: int) -> np.ndarray:
        """`n` documents (n, length + 1), BOS first."""
        out = np.empty((n, self.texts.length + 1), np.int32)
        for row in out:
            row[:] = self._document()
        return out

    def _document(self) -> list[int]:
        ids, known = [BOS], list[tuple[int, int]]()
        kind = int(self.rng.choice(3, p=self.texts.shares))
        while len(ids) <= self.texts.length:
            ids += self._piece(kind, known)
            if self.texts.together:
                kind = int(self.rng.choice(3, p=self.texts.shares))
        return ids[: self.texts.length + 1]

    def _piece(self, kind: int, known: list[tuple[int, int]]) -> list[int]:
        rng = self.rng
        if kind == 0:
            at = int(rng.integers(0, 24))
            text: list[int] = self.babble[rng.integers(len(self.babble)), at : at + int(rng.integers(12, 25))].tolist()
            return text
        if kind == 1:
            return [token for _ in range(int(rng.integers(2, 5))) for token in self._fact(known)]
        pool = self.pools["questions" if self.texts.questions and rng.random() < 0.5 else "captions"]
        return pool[int(rng.integers(len(pool)))]

    def _fact(self, known: list[tuple[int, int]]) -> list[int]:
        rng = self.rng
        if known and rng.random() < 0.5:
            person, town = known[int(rng.integers(len(known)))]
            return [self.where, self.lives, person, self.asks, town, self.stop]
        person, town = int(rng.choice(self.people)), int(rng.choice(self.towns))
        known.append((person, town))
        return [person, self.lives, self.into, town, self.stop]
