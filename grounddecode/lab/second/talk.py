"""Conversations about the second lab's images: captions, existence, colour, place, relation and number."""

from functools import cache

import numpy as np

from grounddecode.lab import captions
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.second.words import encode
from grounddecode.lab.text import corpus, questions
from grounddecode.lab.world import Scene

TELLING = 4.0  # loss weight of a word that an answer is asked for
_DIRECT = ("description", "whereabouts", "relative", "count", "pointing")
_SAYING = ("left", "right", "top", "bottom", "middle", "above", "below", *captions.NUMBERS)


def conversation(scene: Scene, rng: np.random.Generator, annotator: captions.Annotator) -> list[questions.Turn]:
    """What one visit of an image teaches: captions first, then questions until the row is full."""
    text, named = captions.long_caption(scene, rng, annotator.pad)
    turns = [questions.Turn("caption", corpus.long_prompt(rng), text)]
    if rng.random() < 0.2:
        again = captions.long_caption(scene, rng, annotator.pad)[0]
        turns.append(questions.Turn("caption", corpus.long_prompt(rng), again))
    if rng.random() < 0.15:
        turns.append(questions.Turn("short", captions.SHORT_PROMPT, captions.short_caption(scene, rng)))
    asked = [ask(scene, rng) for ask in (questions.described, questions.whereabouts) for _ in range(2)]
    asked += [ask(scene, rng) for ask in (questions.related, questions.how_many, questions.pointed)]
    asked += [questions.attribute(scene, rng, tuple(COLOURS)), questions.placement(scene, rng)]
    asked += [ask(scene, rng) for ask in (questions.relational, questions.number)]
    asked += [questions.existence(scene, rng, named, annotator.mined) for _ in range(5)]
    return turns + [asked[i] for i in rng.permutation(len(asked))]


def weights(turn: questions.Turn, answer: list[int]) -> list[float]:
    """Loss weights of an encoded answer: what a direct question asks for weighs `TELLING`, all else as before."""
    plain = corpus.token_weights(turn, answer)
    if turn.kind not in _DIRECT:
        return plain
    return [TELLING if token in _telling() else weight for token, weight in zip(answer, plain, strict=True)]


@cache
def _telling() -> frozenset[int]:
    said = (*COLOURS, *_SAYING, *(n.capitalize() for n in captions.NUMBERS))
    return frozenset(token for word in said for token in encode(word))
