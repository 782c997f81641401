"""Methods beside their independent dense forms: each case is run on every family of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from grounddecode.method import Method
from grounddecode.methods.avc import AvisC
from grounddecode.methods.heads import HeadModulation
from grounddecode.methods.locore import LocoRE
from grounddecode.methods.paint import PAINT
from grounddecode.methods.sgrs import SGRS
from grounddecode.methods.var import VAR
from tests.oracle import whole
from tests.oracle.avc import Contrast
from tests.oracle.heads import ConstantGains, GainEdit
from tests.oracle.locore import LocoREEdit
from tests.oracle.paint import GivenSets, PaintEdit, TextContrast, TowerSets
from tests.oracle.sgrs import Rejection
from tests.oracle.var import VAREdit


@dataclass(frozen=True)
class Case:
    """`methods` as given to `ground`; `edits`, `contrast` and `rejection` as given to the oracle.

    `everywhere`: run on every family; variants of a method run on the four families that stand for the others.
    """

    name: str
    methods: tuple[Method, ...]
    edits: tuple[whole.Edit, ...] = ()
    contrast: Contrast | None = None
    everywhere: bool = True
    only: tuple[str, ...] | None = None  # families it works on; the others refuse it
    rejection: Callable[[], Rejection] | None = None

    def expected(self, model: Any, family: Any, inputs: Any, steps: int) -> Any:
        """Logits and tokens of the oracle, as `Oracle.greedy` gives them."""
        if self.rejection is not None:
            return self.rejection().greedy(model, family, inputs, steps)
        return whole.Oracle(model, family, self.edits, self.contrast).greedy(inputs, steps)


def _locore() -> Sequence[Case]:
    yield Case("locore", (LocoRE(beta=3.0),), (LocoREEdit(3.0),))
    yield Case("locore-post", (LocoRE(beta=3.0, mode="post"),), (LocoREEdit(3.0, mode="post"),), everywhere=False)
    yield Case("locore-score", (LocoRE(beta=3.0, mode="score"),), (LocoREEdit(3.0, mode="score"),), everywhere=False)
    yield Case(
        "locore-generated-2-layers",
        (LocoRE(beta=3.0, window=2, history="generated", layers=(1, 2)),),
        (LocoREEdit(3.0, window=2, history="generated", layers=(1, 2)),),
        everywhere=False,
    )


def _avc() -> Sequence[Case]:
    for scheme in ("zeros", "mask", "ones", "noise"):
        oracle = Contrast(alpha=1.0, scheme=scheme)
        everywhere = scheme in ("zeros", "mask")
        yield Case(f"avc-{scheme}", (AvisC(alpha=1.0, scheme=scheme),), (), oracle, everywhere)
    yield Case(
        "avc-settings",
        (AvisC(alpha=0.5, beta=0.02, gamma=0.9, lamb=0.3),),
        (),
        Contrast(alpha=0.5, beta=0.02, gamma=0.9, lamb=0.3),
        everywhere=False,
    )


def _var() -> Sequence[Case]:
    dims = (3, 11)
    yield Case("var", (VAR(sink_dims=dims, tau=1.5, p=0.9, rho=0.2),), (VAREdit(dims, 1.5, p=0.9, rho=0.2),))
    yield Case("var-defaults", (VAR(sink_dims=dims, tau=2.0),), (VAREdit(dims, 2.0),), everywhere=False)
    yield Case(
        "var-prompt-sinks",
        (VAR(sink_dims=dims, tau=1.5, p=0.9, rho=0.2, sinks="prompt"),),
        (VAREdit(dims, 1.5, p=0.9, rho=0.2, sinks="prompt"),),
        everywhere=False,
    )
    yield Case(
        "var-released",
        (VAR(sink_dims=dims, tau=1.5, p=0.2, variant="released"),),
        (VAREdit(dims, 1.5, p=0.2, released=True),),
        everywhere=False,
    )


def _heads() -> Sequence[Case]:
    known = ((0.4, 0.1, 0.2, 0.3), (0.1, 0.1, 0.5, 0.2), (0.3, 0.2, 0.1, 0.0), (0.0, 0.1, 0.2, 0.3))
    yield Case("heads", (HeadModulation(alpha=4.0),), (GainEdit(4.0),))
    yield Case(
        "heads-after-image",
        (HeadModulation(alpha=4.0, rows="after_image"),),
        (GainEdit(4.0, "after_image"),),
        everywhere=False,
    )
    yield Case(
        "heads-calibrated",
        (HeadModulation(alpha=4.0, sensitivity="calibrated", head_sensitivity=known, layers=(1, 2)),),
        (GainEdit(4.0, layers=(1, 2), known=known),),
        everywhere=False,
    )


def _constants() -> Sequence[Case]:
    gains = ((1.0, 0.2, 3.0, 1.5), (2.0, 2.0, 0.0, 0.5), (0.4, 4.0, 1.0, 1.0), (5.0, 1.0, 1.0, 0.1))
    yield Case("heads-gains", (HeadModulation(gains=gains),), (ConstantGains(torch.tensor(gains)),), everywhere=False)
    yield Case(
        "heads-gains-one-row",
        (HeadModulation(gains=gains[:1], layers=(1, 3)),),
        (ConstantGains(torch.tensor(gains[0]), layers=(1, 3)),),
        everywhere=False,
    )
    local, summary = ((0, 3, 5, 8),), ((3, 4),)
    yield Case(
        "paint-given-sets",
        (PAINT(alpha=0.9, beta=0.3, layers=(0, 32), local_tokens=local, summary_tokens=summary),),
        (PaintEdit(0.9, 0.3, (0, 32), GivenSets([list(x) for x in local], [list(x) for x in summary])),),
        only=("llava", "internvl", "gemma3", "paligemma", "paligemma2"),
        everywhere=False,
    )


def _paint() -> Sequence[Case]:
    towers = ("llava", "internvl", "gemma3", "paligemma", "paligemma2")
    layers = (0, 32)
    yield Case(
        "paint",
        (PAINT(alpha=0.9, beta=0.8, layers=layers),),
        (PaintEdit(0.9, 0.8, layers, TowerSets()),),
        only=towers,
    )
    yield Case(
        "paint-spatial-contrast",
        (PAINT(alpha=0.9, beta=0.2, local_share=0.4, spatial_share=0.3, layers=(1, 3), gamma=1.5),),
        (PaintEdit(0.9, 0.2, (1, 3), TowerSets(0.4, 0.3)),),
        TextContrast(weight=1.5),
        only=towers,
    )


def _compositions() -> Sequence[Case]:
    var, edit = VAR(sink_dims=(3, 11), tau=1.5, p=0.9, rho=0.2), VAREdit((3, 11), 1.5, p=0.9, rho=0.2)
    yield Case("var+avc", (var, AvisC(alpha=1.0)), (edit,), Contrast(alpha=1.0))
    yield Case("var+locore", (var, LocoRE(beta=3.0)), (edit, LocoREEdit(3.0)))
    yield Case("locore+avc", (LocoRE(beta=3.0), AvisC(alpha=1.0)), (LocoREEdit(3.0),), Contrast(alpha=1.0))


CASES: tuple[Case, ...] = (*_locore(), *_avc(), *_var(), *_heads(), *_constants(), *_paint(), *_compositions())


def _sgrs() -> Sequence[Case]:
    settings, layers = {"alpha": 1.5}, (0, 2)
    yield Case("sgrs", (SGRS(layers=layers, **settings),), rejection=lambda: Rejection(layers, **settings))
    yield Case(
        "locore+sgrs",
        (LocoRE(beta=1.0), SGRS(layers=layers, **settings)),
        rejection=lambda: Rejection(layers, edits=(LocoREEdit(1.0),), **settings),
    )


REJECTIONS: tuple[Case, ...] = tuple(_sgrs())
EVERY_CASE: tuple[Case, ...] = (*CASES, *REJECTIONS)
