"""VTI by hooks on whole sequences, one token at a time; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grounddecode.methods.layers.vti import VTI
from tests.oracle.case import Case
from tests.oracle.vista import Turned
from tests.oracle.whole import Oracle

WIDTH = 32  # of the zoo's models


@dataclass
class Leaned(Turned):
    """Every network's output is turned by a direction that is given, by the same share for every token."""

    given: Tensor = field(default_factory=lambda: torch.zeros(0))

    def directions(self, oracle: Oracle, inputs: dict[str, Tensor]) -> list[Tensor]:
        return [row.double().expand(len(inputs["input_ids"]), -1) for row in self.given]

    def turn(self, x: Tensor, v: Tensor) -> Tensor:
        mixed = x / x.norm() + 0.1 * self.lamb * v / v.norm()
        return x.norm() * mixed / mixed.norm()


def _cases() -> Iterator[Case]:
    table = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(3))
    given = tuple(tuple(float(x) for x in row) for row in table.tolist())
    yield Case("vti", (VTI(alpha=4.0, directions=given),), steering=Leaned(4.0, given=table))


CASES = tuple(_cases())
