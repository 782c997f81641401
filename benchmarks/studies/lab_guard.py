"""What a method may not cost: answers about colours, places, relations and numbers, and captions that stay language.

These questions have nothing to do with invented objects: what a method changes there it changes at its user's cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

import numpy as np

from grounddecode.engines.base import Decoding, Engine, Request
from grounddecode.evaluate.intervals import count, differences, divide
from grounddecode.lab.text import questions
from grounddecode.lab.text.questions import Turn
from grounddecode.lab.world import COLOURS, Scene, scenes
from grounddecode.registry import GREEDY, plan

QUESTIONS, EACH, DRAWN, BATCH = 200, 2, 800, 50  # of a kind, of a picture, pictures at most, at once
ASKED: dict[str, tuple[str, Callable[[Scene, np.random.Generator], Turn]]] = {  # what a turn of it is called, and it
    "colour": ("attribute", lambda scene, rng: questions.attribute(scene, rng, tuple(COLOURS))),
    "place": ("placement", questions.placement),
    "relation": ("relation", questions.relational),
    "number": ("number", questions.number),
}
Right = Mapping[str, Sequence[Sequence[int]]]  # by kind: pairs of the picture's index and whether the answer is right


def turns(split: str, kinds: Sequence[str]) -> list[tuple[int, str, Scene, Turn]]:
    """Balanced questions with their picture's index and their kind: `EACH` of a picture, of the first that have it."""
    rng = np.random.default_rng(0)
    drawn = [(n, scene) for n, scene in enumerate(scenes(split, DRAWN)) if scene.objects]
    return [asked for kind in kinds for asked in islice(_asked(drawn, kind, rng), QUESTIONS)]


def _asked(
    drawn: Sequence[tuple[int, Scene]], kind: str, rng: np.random.Generator
) -> Iterator[tuple[int, str, Scene, Turn]]:
    """A scene that cannot be asked a kind is asked another by its function, which is left out."""
    called, ask = ASKED[kind]
    for n, scene in drawn:
        for _ in range(EACH):
            turn = ask(scene, rng)
            if turn.kind == called:
                yield n, kind, scene, turn


def answers(
    engine: Engine, specs: Iterable[str], split: str = "evaluation", kinds: Sequence[str] = ("colour",)
) -> dict[str, dict[str, list[list[int]]]]:
    """Which questions each plan answers as the picture says: of every kind pairs (picture, right), in order."""
    asked = turns(split, kinds)
    requests = [
        Request(sample_id=f"{kind}/{n}", prompt=turn.question, images=(scene.image,))
        for n, (_, kind, scene, turn) in enumerate(asked)
    ]
    found: dict[str, dict[str, list[list[int]]]] = {}
    for spec in specs:
        made = plan(spec)
        decoding = Decoding(max_new_tokens=4, **made.decoding)
        parts = [requests[at : at + BATCH] for at in range(0, len(requests), BATCH)]
        said = [answer.text.strip() for part in parts for answer in engine.generate(part, decoding, made.methods)]
        right: dict[str, list[list[int]]] = {kind: [] for kind in kinds}
        for text, (picture, kind, _, turn) in zip(said, asked, strict=True):
            right[kind].append([picture, int(text == turn.answer)])
        found[spec] = right
    return found


def kept(right: Mapping[str, Right], spec: str) -> dict[str, dict[str, Any]]:
    """By kind: share of right answers, and its difference from greedy's with the interval over pictures."""
    return {kind: _share(right, spec, kind) for kind in right[spec]}


def _share(right: Mapping[str, Right], spec: str, kind: str) -> dict[str, Any]:
    told: dict[str, Any] = {"value": round(float(np.mean([hit for _, hit in right[spec][kind]])), 4)}
    if spec != GREEDY:
        sides = [
            count([p for p, _ in right[name][kind]], [{"right": float(hit), "n": 1.0} for _, hit in right[name][kind]])
            for name in (spec, GREEDY)
        ]
        point, bounds = differences(*sides, lambda sums: {"right": divide(sums["right"], sums["n"])})["right"]
        told["vs_greedy"] = [round(value, 4) for value in (point, *bounds) if value is not None]
    return told


def changed(captions: Mapping[str, str], greedy: Mapping[str, str]) -> float:
    """Share of the words of a plan's captions and of greedy's that are not in both, in order."""
    pairs = [(greedy[sample].split(), text.split()) for sample, text in captions.items()]
    kept = sum(b.size for one, two in pairs for b in SequenceMatcher(None, one, two, False).get_matching_blocks())
    return round(1 - 2 * kept / sum(len(one) + len(two) for one, two in pairs), 4)
