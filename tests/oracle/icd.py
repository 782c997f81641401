"""ICD: two whole passes a step, one with more text; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.contrast.icd import ICD
from tests.oracle.case import Case
from tests.oracle.locore import LocoREEdit
from tests.oracle.prompts import cut, with_text_behind
from tests.oracle.whole import Adjustment, Oracle

TEXT = (41, 52, 63, 30, 77)


@dataclass
class Disturbed(Adjustment):
    """(1 + alpha) l - alpha l' under VCD's cut."""

    alpha: float = 1.0
    beta: float = 0.1
    text: tuple[int, ...] = TEXT

    @property
    def strength(self) -> float:
        return self.alpha

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        other = oracle.raw(with_text_behind(oracle, inputs, self.text), tokens).double()
        return cut((1 + self.alpha) * now.double() - self.alpha * other, now, self.beta).float()


CASES = (
    Case("icd", (ICD(instruction=TEXT),), adjustments=(Disturbed(),)),
    Case(
        "icd-settings",
        (ICD(alpha=0.5, beta=0.02, instruction=(9,)),),
        adjustments=(Disturbed(0.5, 0.02, (9,)),),
        everywhere=False,
    ),
    Case(
        "locore+icd",
        (LocoRE(beta=3.0), ICD(instruction=TEXT)),
        (LocoREEdit(3.0),),
        adjustments=(Disturbed(),),
        everywhere=False,
    ),
)
