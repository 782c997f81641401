"""M3ID: a whole pass over picture and text and one over the text a step; the oracle takes nothing from grounddecode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.attention.var import VAR
from grounddecode.methods.contrast.m3id import M3ID
from tests.oracle.case import Case
from tests.oracle.prompts import cut, text_logits
from tests.oracle.var import VAREdit
from tests.oracle.whole import Adjustment, Oracle


@dataclass
class Growing(Adjustment):
    """l + (1 - g) / g (l - u), g = exp(-lamb t)."""

    lamb: float
    beta: float = 0.1
    gate: float = 1.0
    cap: float = math.inf

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        g = math.exp(-self.lamb * tokens.shape[1])
        weight, main = min((1 - g) / g, self.cap), now.double()
        mixed = cut(main + weight * (main - text_logits(oracle, inputs, tokens).double()), now, self.beta)
        unsure = main.softmax(-1).max(-1, keepdim=True).values < self.gate
        return torch.where(unsure, mixed, main).float()


_VAR, _VAR_EDIT = VAR(sink_dims=(3, 11), tau=1.5, p=0.9, rho=0.2), VAREdit((3, 11), 1.5, p=0.9, rho=0.2)

CASES = (
    Case("m3id", (M3ID(lamb=0.15),), adjustments=(Growing(0.15),)),
    Case(
        "m3id-gate-cap",
        (M3ID(lamb=0.9, beta=0.02, gate=0.05, cap=1.5),),
        adjustments=(Growing(0.9, 0.02, 0.05, 1.5),),
        everywhere=False,
    ),
    Case("var+m3id", (_VAR, M3ID(lamb=0.15)), (_VAR_EDIT,), adjustments=(Growing(0.15),), everywhere=False),
)
