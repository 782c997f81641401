"""What a method may not cost: answers about colours, and captions that stay language.

Colour questions have nothing to do with invented objects: what a method changes there it changes at its user's cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from grounddecode.engines.base import Decoding, Engine, Request
from grounddecode.evaluate.intervals import count, differences, divide
from grounddecode.lab.text import questions
from grounddecode.lab.world import COLOURS, scenes
from grounddecode.registry import GREEDY, plan

PICTURES, EACH, BATCH = 100, 2, 50


def colours(engine: Engine, specs: Iterable[str]) -> dict[str, list[bool]]:
    """Which of the balanced colour questions each plan answers as the picture says; two a picture, in order."""
    rng = np.random.default_rng(0)
    drawn = [scene for scene in scenes("evaluation", PICTURES) if scene.objects]
    asked = [(scene, questions.attribute(scene, rng, tuple(COLOURS))) for scene in drawn for _ in range(EACH)]
    requests = [
        Request(sample_id=f"colour/{n}", prompt=turn.question, images=(scene.image,))
        for n, (scene, turn) in enumerate(asked)
    ]
    said: dict[str, list[str]] = {}
    for spec in specs:
        made = plan(spec)
        decoding = Decoding(max_new_tokens=4, **made.decoding)
        parts = [requests[at : at + BATCH] for at in range(0, len(requests), BATCH)]
        said[spec] = [answer.text for part in parts for answer in engine.generate(part, decoding, made.methods)]
    return {
        spec: [a.strip() == t.answer for a, (_, t) in zip(texts, asked, strict=True)] for spec, texts in said.items()
    }


def colour(right: Mapping[str, Sequence[bool]], spec: str) -> dict[str, Any]:
    """Share of right answers, and its difference from greedy with the interval over pictures."""
    told: dict[str, Any] = {"value": round(float(np.mean(right[spec])), 4)}
    if spec != GREEDY:
        pictures = [n // EACH for n in range(len(right[spec]))]
        sides = [count(pictures, [{"right": float(r), "n": 1.0} for r in right[name]]) for name in (spec, GREEDY)]
        point, bounds = differences(*sides, lambda sums: {"right": divide(sums["right"], sums["n"])})["right"]
        told["vs_greedy"] = [round(value, 4) for value in (point, *bounds) if value is not None]
    return told


def changed(captions: Mapping[str, str], greedy: Mapping[str, str]) -> float:
    """Share of the words of a plan's captions and of greedy's that are not in both, in order."""
    pairs = [(greedy[sample].split(), text.split()) for sample, text in captions.items()]
    kept = sum(b.size for one, two in pairs for b in SequenceMatcher(None, one, two, False).get_matching_blocks())
    return round(1 - 2 * kept / sum(len(one) + len(two) for one, two in pairs), 4)
