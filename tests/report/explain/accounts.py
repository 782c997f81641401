"""Accounts made by hand, for tests of what is made of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from grounddecode.report.explain.account import Account, Candidate, Choice, HeatMap, Marked, Seen, Told
from grounddecode.report.overlay import Box
from grounddecode.risk import Word, WordRisk


def seen(text: str, number: int, start: int, grounding: float, **more: object) -> Seen:
    word = Word(text, start, start + len(text), number, number)
    named = more.pop("object", None)
    probability = more.pop("probability", None)
    levels = np.zeros((6, 8), dtype=np.float32)
    levels[number % 6, number % 8] = 0.1 * (number + 1)
    maps = {kind: (HeatMap(levels, 0.4),) for kind in ("attention", "saliency")}
    candidates = (Candidate(text, (0.25, 0.75), True), Candidate("cup", (0.75, 0.0), False))
    given = {
        "chance": 0.5,
        "shares": {"image 1": grounding, "prompt": 1 - grounding, "output": 0.0},
        "real": None,
        "lead": number,
        "maps": maps,
        "heads": np.linspace(0, 0.9, 6, dtype=np.float32).reshape(3, 2),
        "choice": Choice(("plain model", "avc"), candidates, ("avc",)),
    }
    risk = WordRisk(text, start, start + len(text), 1 - grounding, named, probability)  # type: ignore[arg-type]
    return Seen(word=word, risk=risk, **given | more)  # type: ignore[arg-type]


def told(name: str, words: list[str], groundings: list[float], **more: object) -> Told:
    at, made = 0, []
    objects = {"dog": True, "cup": False}
    for number, (text, grounding) in enumerate(zip(words, groundings, strict=True)):
        named = text if text in objects else None
        made.append(seen(text, number, at, grounding, object=named, real=objects.get(text)))
        at += len(text) + 1
    return Told(name, " ".join(words) + ".", tuple(made), **more)  # type: ignore[arg-type]


def account(**more: object) -> Account:
    """A picture of 96 x 72, two answers that part at their third word."""
    kept = Marked("avc: kept", (((0.0, 0.0, 12.0, 12.0),),), 1, 48)
    given = {
        "model": "lab",
        "prompt": "Describe it.",
        "pictures": (Image.new("RGB", (96, 72), "gray"),),
        "labels": ("scene 7",),
        "boxes": ((Box("dog", (10, 10, 30, 20)),),),
        "objects": ("dog",),
        "told": (
            told("plain model", ["A", "grey", "dog"], [0.1, 0.5, 0.9], differs=2),
            told("avc", ["A", "grey", "cup"], [0.1, 0.6, 0.05], differs=2, marked=(kept,)),
        ),
        "threshold": 0.2,
        "calibrated": False,
        "layers": (3,),
        "facts": {"class": "Llava"},
    }
    return Account(**given | more)  # type: ignore[arg-type]
