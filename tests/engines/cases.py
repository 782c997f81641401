"""Methods beside their independent dense forms: each case is run on every family of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grounddecode.method import Method
from grounddecode.methods.avc import AvisC
from grounddecode.methods.heads import HeadModulation
from grounddecode.methods.locore import LocoRE
from grounddecode.methods.var import VAR
from tests import dense
from tests.dense_heads import GainEdit
from tests.dense_var import VAREdit


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


def _var() -> Sequence[Case]:
    dims = (3, 11)
    yield Case("var", (VAR(sink_dims=dims, tau=2.0),), (VAREdit(dims, 2.0),))
    yield Case(
        "var-prompt-sinks",
        (VAR(sink_dims=dims, tau=1.5, p=0.9, rho=0.2, sinks="prompt"),),
        (VAREdit(dims, 1.5, p=0.9, rho=0.2, sinks="prompt"),),
    )
    yield Case(
        "var-released",
        (VAR(sink_dims=dims, tau=1.5, p=0.2, variant="released"),),
        (VAREdit(dims, 1.5, p=0.2, released=True),),
    )


def _heads() -> Sequence[Case]:
    known = ((0.4, 0.1, 0.2, 0.3), (0.1, 0.1, 0.5, 0.2), (0.3, 0.2, 0.1, 0.0), (0.0, 0.1, 0.2, 0.3))
    yield Case("heads", (HeadModulation(alpha=4.0),), (GainEdit(4.0),))
    yield Case("heads-after-image", (HeadModulation(alpha=4.0, rows="after_image"),), (GainEdit(4.0, "after_image"),))
    yield Case(
        "heads-calibrated",
        (HeadModulation(alpha=4.0, sensitivity="calibrated", head_sensitivity=known, layers=(1, 2)),),
        (GainEdit(4.0, layers=(1, 2), known=known),),
    )


def _compositions() -> Sequence[Case]:
    var, edit = VAR(sink_dims=(3, 11), tau=1.5, p=0.9, rho=0.2), VAREdit((3, 11), 1.5, p=0.9, rho=0.2)
    yield Case("var+avc", (var, AvisC(alpha=1.0)), (edit,), dense.Contrast(alpha=1.0))
    yield Case("var+locore", (var, LocoRE(beta=3.0)), (edit, dense.LocoREEdit(3.0)))
    yield Case("locore+avc", (LocoRE(beta=3.0), AvisC(alpha=1.0)), (dense.LocoREEdit(3.0),), dense.Contrast(alpha=1.0))


CASES: tuple[Case, ...] = (*_locore(), *_avc(), *_var(), *_heads(), *_compositions())
