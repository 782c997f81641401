"""VISTA by hooks on whole sequences, one token at a time; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.layers.vista import VISTA
from tests.oracle.case import Case
from tests.oracle.locore import LocoREEdit
from tests.oracle.prompts import text_logits
from tests.oracle.whole import Adjustment, Oracle, Steering


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def behind_layers(stack: Any, rows: int) -> Iterator[list[Tensor]]:
    """(rows, width) of the last token behind each layer, of the pass that runs inside."""
    found: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        found.append(_first(output).reshape(rows, -1, _first(output).shape[-1])[:, -1].double())

    handles = [layer.register_forward_hook(keep) for layer in stack.layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def networks_end(block: Any) -> nn.Module:
    """The module whose output is added to the residual as the feed-forward network's."""
    names = ("post_feedforward_layernorm", "post_mlp_layernorm", "fc2", "mlp", "feed_forward")
    return next(getattr(block, name) for name in names if hasattr(block, name))


@dataclass
class Turned(Steering):
    """Every network's output is turned by the difference that the picture makes behind the layer."""

    lamb: float
    answer_only: bool = False

    def directions(self, oracle: Oracle, inputs: dict[str, Tensor]) -> list[Tensor]:
        plain, none = Oracle(oracle.model, oracle.family), torch.zeros(len(inputs["input_ids"]), 0, dtype=torch.long)
        if self.answer_only:  # what the prompt's own reading gives, other edits of it included
            plain = Oracle(oracle.model, oracle.family, oracle.edits)
        with behind_layers(oracle.stack, len(none)) as given:
            plain.raw(inputs, none)
        with behind_layers(oracle.stack, len(none)) as text:
            text_logits(oracle, inputs, none)
        found = []
        for h, u in zip(given, text, strict=True):
            change = h - u
            change[change.norm(dim=-1) < 0.01 * h.norm(dim=-1)] = 0
            found.append(change)
        return found

    def turn(self, x: Tensor, v: Tensor) -> Tensor:
        """One token."""
        size, length = float(x.norm()), float(v.norm())
        if size == 0 or length == 0:
            return x
        cosine = float(x @ -v) / (size * length)
        mixed = x / size + self.lamb * (1 + max(0.0, cosine)) * v / length
        return size * mixed / float(mixed.norm())

    @contextmanager
    def around(self, oracle: Oracle, inputs: dict[str, Tensor]) -> Iterator[None]:
        rows, prompt = inputs["input_ids"].shape
        directions = self.directions(oracle, inputs)

        def steer(v: Tensor) -> Any:
            def change(_: Any, __: Any, output: Any) -> Any:
                plain = _first(output)
                new = plain.double().reshape(rows, -1, plain.shape[-1]).clone()
                for row in range(rows):
                    for token in range(prompt if self.answer_only else 0, new.shape[1]):
                        new[row, token] = self.turn(new[row, token], v[row])
                new = new.reshape(plain.shape).to(plain.dtype)
                return (new, *output[1:]) if isinstance(output, tuple) else new

            return change

        layers = zip(oracle.stack.layers, directions, strict=True)
        handles = [networks_end(block).register_forward_hook(steer(v)) for block, v in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass
class Mixed(Adjustment):
    """The mean of late exits, through the model's own norm or past it."""

    gamma: float
    exits: tuple[int, ...]
    normed: bool = True

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        norm = getattr(oracle.stack, "norm", None)
        if not self.normed:
            oracle.stack.norm = nn.Identity()
        try:
            late = [oracle.exit(inputs, tokens, e).double() for e in self.exits]
        finally:
            if not self.normed:
                oracle.stack.norm = norm
        return ((1 - self.gamma) * now.double() + self.gamma * torch.stack(late).mean(0)).float()


def _cases() -> Iterator[Case]:
    yield Case("vista", (VISTA(lamb=0.4, exits=(2, 3)),), steering=Turned(0.4), adjustments=(Mixed(0.3, (2, 3)),))
    yield Case(
        "vista-mix-released",
        (VISTA(lamb=0, gamma=0.6, variant="released"),),
        adjustments=(Mixed(0.6, (3,), normed=False),),
        everywhere=False,
    )
    yield Case(
        "vista-answer", (VISTA(lamb=0.6, gamma=0, probe="prompt"),), steering=Turned(0.6, True), everywhere=False
    )
    yield Case(
        "locore+vista",
        (LocoRE(beta=3.0), VISTA(lamb=0.4, gamma=0)),
        (LocoREEdit(3.0),),
        steering=Turned(0.4),
        everywhere=False,
    )


CASES = tuple(_cases())
