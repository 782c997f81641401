"""Conversations about the second lab's images: captions, existence, colour, place, relation and number."""

import numpy as np

from grounddecode.lab import captions
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.text import questions
from grounddecode.lab.text.corpus import long_prompt
from grounddecode.lab.world import Scene


def conversation(scene: Scene, rng: np.random.Generator, annotator: captions.Annotator) -> list[questions.Turn]:
    """What one visit of an image teaches: captions first, then questions until the row is full."""
    text, named = captions.long_caption(scene, rng, annotator.pad)
    turns = [questions.Turn("caption", long_prompt(rng), text)]
    if rng.random() < 0.4:
        turns.append(questions.Turn("caption", long_prompt(rng), captions.long_caption(scene, rng, annotator.pad)[0]))
    if rng.random() < 0.2:
        turns.append(questions.Turn("short", captions.SHORT_PROMPT, captions.short_caption(scene, rng)))
    asked = [questions.attribute(scene, rng, tuple(COLOURS)), questions.placement(scene, rng)]
    asked += [questions.relational(scene, rng) for _ in range(2)]
    asked += [questions.number(scene, rng) for _ in range(2)] + [questions.how_many(scene, rng)]
    asked += [questions.existence(scene, rng, named, annotator.mined) for _ in range(7)]
    return turns + [asked[i] for i in rng.permutation(len(asked))]
