"""What is trained: variants of the text stage in groups of one shape, what follows, and how much of everything."""

from __future__ import annotations

from dataclasses import dataclass, replace

from grounddecode.lab import captions, world
from grounddecode.lab.second import documents as docs

LOOKS = {"full": world.FULL, "sparse": world.SPARSE}
ANNOTATORS = {"careful": captions.CAREFUL, "liberal": captions.LIBERAL}
HELD = 256  # scenes at the end that no training sees
T = docs.Texts
BASE = T()
ALL, FEW = T(language=0.35, facts=0.3, lab=0.35), T(language=0.45, facts=0.4, lab=0.15)
SPOKEN, LOOKED = T(language=0.85, facts=0, lab=0.15), T(language=0, facts=0.85, lab=0.15)
LEAST = T(language=0.5, facts=0.45, lab=0.05)


@dataclass(frozen=True)
class Variant:
    """One text training."""

    name: str
    texts: docs.Texts = BASE
    rate: float = 4e-3
    decay: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Group:
    """Variants of one shape, trained side by side; `joint` of them go on to images."""

    heads: int
    layers: int
    variants: tuple[Variant, ...]
    joint: int


V = Variant
GROUPS = {
    "8h6l": Group(8, 6, (
        V("few", FEW), V("few-s1", FEW, seed=1), V("half", BASE), V("apart", replace(BASE, together=False)),
        V("all", ALL),
        V("spoken", SPOKEN), V("looked", LOOKED), V("least", LEAST), V("few-q", replace(FEW, questions=True)),
        V("few-2000", replace(FEW, names=2000)), V("few-300", replace(FEW, names=300)), V("few-8e-3", FEW, rate=8e-3),
        V("few-2e-3", FEW, rate=2e-3), V("few-decay.3", FEW, decay=0.3),
    ), 6),
    "4h6l": Group(4, 6, (V("few", FEW), V("spoken", SPOKEN), V("least", LEAST), V("few-8e-3", FEW, rate=8e-3)), 2),
    "8h8l": Group(8, 8, (V("few", FEW), V("spoken", SPOKEN), V("least", LEAST), V("few-8e-3", FEW, rate=8e-3)), 2),
    "8h4l": Group(8, 4, (V("few", FEW), V("spoken", SPOKEN), V("least", LEAST), V("few-8e-3", FEW, rate=8e-3)), 0),
}  # fmt: skip


@dataclass(frozen=True)
class Follow:
    """What follows a text training that goes on: world, share of text, alignment of object patches, stage 1 at all."""

    look: str = "full"
    text: float = 0.33
    align: float = 1.0
    stage1: bool = True


FOLLOW = (Follow(), Follow(text=0.12), Follow("sparse"), Follow(stage1=False))


def amounts(toy: bool) -> dict[str, int]:
    """Scenes, documents, scenes a job, tower steps, batch, visits and scenes that gates look at."""
    if toy:
        return {"full": 320, "sparse": 320, "docs": 64, "chunk": 40, "tower": 3, "batch": 2, "rows": 1, "eval": 8}
    return {
        "full": 24_000,
        "sparse": 12_000,
        "docs": 40_000,
        "chunk": 250,
        "tower": 1500,
        "batch": 16,
        "rows": 2,
        "eval": 192,
    }


def settings() -> list[docs.Texts]:
    """Every kind of documents that some variant reads."""
    return list(dict.fromkeys(v.texts for g in GROUPS.values() for v in g.variants))
