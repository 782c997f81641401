"""Methods beside their independent dense forms: each case is run on every family of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grounddecode.method import Method
from grounddecode.methods.avc import AvisC
from grounddecode.methods.locore import LocoRE
from tests import dense


@dataclass(frozen=True)
class Case:
    """`methods` as given to `ground`; `edits` and `contrast` as given to the oracle."""

    name: str
    methods: tuple[Method, ...]
    edits: tuple[dense.Edit, ...] = ()
    contrast: dense.Contrast | None = None


def _locore() -> Sequence[Case]:
    yield Case("locore", (LocoRE(beta=3.0),), (dense.LocoREEdit(3.0),))
    yield Case("locore-post", (LocoRE(beta=3.0, mode="post"),), (dense.LocoREEdit(3.0, mode="post"),))
    yield Case("locore-score", (LocoRE(beta=3.0, mode="score"),), (dense.LocoREEdit(3.0, mode="score"),))
    yield Case(
        "locore-generated-2-layers",
        (LocoRE(beta=3.0, window=2, history="generated", layers=(1, 2)),),
        (dense.LocoREEdit(3.0, window=2, history="generated", layers=(1, 2)),),
    )


def _avc() -> Sequence[Case]:
    for scheme in ("zeros", "mask", "ones", "noise"):
        yield Case(f"avc-{scheme}", (AvisC(alpha=1.0, scheme=scheme),), (), dense.Contrast(alpha=1.0, scheme=scheme))
    yield Case(
        "avc-settings",
        (AvisC(alpha=0.5, beta=0.02, gamma=0.9, lamb=0.3),),
        (),
        dense.Contrast(alpha=0.5, beta=0.02, gamma=0.9, lamb=0.3),
    )


def _compositions() -> Sequence[Case]:
    yield Case("locore+avc", (LocoRE(beta=3.0), AvisC(alpha=1.0)), (dense.LocoREEdit(3.0),), dense.Contrast(alpha=1.0))


CASES: tuple[Case, ...] = (*_locore(), *_avc(), *_compositions())
