"""Toy methods that edit or read hidden states, and hooks on whole sequences without a cache that do the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from grounddecode import AvisC, ground
from grounddecode.method import Method, Needs, option
from grounddecode.reads import Reads
from grounddecode.view import StepView
from tests import zoo
from tests.oracle import whole

STEPS = 4
TOLERANCE = 2e-5
FAMILIES = (
    "llava",
    "gemma3",
    "paligemma2",
    "qwen3_vl",
    "glm4v",
    "blip2",
    "qwen3_5",
    "llama4",
    "gemma4",
    "phi4_multimodal",
)


@dataclass(frozen=True, kw_only=True)
class Turn(Method):
    """Adds to each token a share of what the network read, backwards, and of the size of both."""

    name: ClassVar[str] = "turn"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "turns feed-forward outputs"

    share: float = option(0.4, "how far", neutral=0.0)
    layers: tuple[int, ...] = option((1, 3), "where")

    def acts_on(self, layer: int, n_layers: int) -> bool:
        return layer in self.layers

    def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
        return turned(output, given, self.share)


@dataclass(frozen=True, kw_only=True)
class TurnBlock(Turn):
    """The same behind whole layers."""

    name: ClassVar[str] = "turn_block"
    site: ClassVar[Any] = "block_output"


@dataclass(frozen=True, kw_only=True)
class Early(Method):
    """Adds what layer 1 and the last layer but one say already, as DeCo and VISTA do."""

    name: ClassVar[str] = "early"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "mixes earlier layers into the logits"
    extra_needs: ClassVar[Needs] = Needs.HIDDEN_READ

    share: float = option(0.5, "how much", neutral=0.0)

    def reads(self, n_layers: int) -> Reads:
        return Reads(hidden=(1, n_layers - 2))

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        assert step.hidden is not None
        assert step.lens is not None
        early = step.lens(step.hidden[1]) + step.lens(step.hidden[step.n_layers - 2])
        mixed = (logits + self.share * early).to(logits.dtype)
        return mixed.where((step.image_end >= 0)[:, None], logits)


def turned(output: Tensor, given: Tensor, share: float) -> Tensor:
    return output + share * given.flip(-1) * output.abs().mean(-1, keepdim=True)


# -- the oracle --------------------------------------------------------------------------------------------------------
@contextmanager
def steered(stack: Any, methods: Sequence[Turn], rows: Tensor) -> Iterator[None]:
    """Hooks on the layers of a plain model, by the names its own code has. `rows`: (rows,) bool, which have images."""
    handles: list[Any] = []

    def ends(block: Any, site: str) -> tuple[Any, Any]:
        if site == "block_output":
            return block, block
        entry = next(getattr(block, n) for n in ("mlp", "feed_forward", "fc1") if hasattr(block, n))
        norms = ("post_feedforward_layernorm", "post_mlp_layernorm", "fc2")
        return entry, next((getattr(block, n) for n in norms if hasattr(block, n)), entry)

    def put(block: Any, method: Turn) -> None:
        entry, leave = ends(block, method.site)
        read: list[Tensor] = []

        def note(_: Any, args: Any, kwargs: Any) -> None:
            read[:] = [args[0] if args else kwargs["hidden_states"]]

        def change(_: Any, __: Any, output: Any) -> Any:
            plain = output[0] if isinstance(output, tuple) else output
            new = turned(plain, read[0].reshape(plain.shape), method.share)
            many = plain.shape[0] // len(rows) if plain.dim() == 2 else 1
            here = rows.repeat_interleave(many)[(...,) + (None,) * (plain.dim() - 1)]
            new = torch.where(here, new, plain)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handles.append(entry.register_forward_pre_hook(note, with_kwargs=True))
        handles.append(leave.register_forward_hook(change))

    for method in methods:
        for layer in method.layers:
            put(stack.layers[layer], method)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def expected(name: str, inputs: dict[str, Tensor], methods: Sequence[Turn], tokens: Tensor) -> Tensor:
    """(steps, rows, vocabulary): whole sequences anew for every token that was chosen."""
    model, family = zoo.model(name), zoo.family(name)
    rows = (inputs["input_ids"] == family.image_token).any(dim=1)
    oracle = whole.Oracle(model, family)
    with steered(oracle.stack, methods, rows):
        return torch.stack([oracle.logits(inputs, tokens[:, :n])[0] for n in range(tokens.shape[1])])


def generate(name: str, methods: Any, inputs: dict[str, Tensor] | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    model, inputs = zoo.model(name), inputs or zoo.family(name).batch()
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with ground(model, methods):
        output = model.generate(**inputs, **(settings | options))
    return torch.stack(output.logits).float(), output.sequences[:, -STEPS:]


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE)


TOYS = [
    [Turn()],
    [TurnBlock(share=0.1)],
    [Early()],
    [Turn(), Early()],
    [Turn(), AvisC(alpha=1.0)],
    [Early(), AvisC(alpha=1.0)],
]
every_toy = pytest.mark.parametrize("methods", TOYS, ids=lambda methods: "+".join(m.name for m in methods))
