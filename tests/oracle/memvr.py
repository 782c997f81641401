"""MemVR by hooks on whole sequences, one row and one decision at a time; the oracle takes nothing from grounddecode."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from grounddecode.methods.layers.memvr import MemVR
from tests.oracle.case import Case
from tests.oracle.whole import Oracle


@dataclass
class Retracing:
    """Whole passes anew for every token: what an early layer says decides what the next network is mixed with.

    The prompt's tokens hang together, by its last one; every later token stands for itself.
    """

    layers: tuple[int, int]
    r: float = 0.12
    tau: float = 0.75
    activation: Any = field(default=lambda x: x)

    def around(self, oracle: Oracle, inputs: dict[str, Tensor]) -> AbstractContextManager[None]:
        return self.hooked(oracle.model, oracle.family, inputs)

    @contextmanager
    def hooked(self, model: Any, family: Any, inputs: dict[str, Tensor]) -> Iterator[None]:
        """The edit in every pass of the model."""
        stack = Oracle(model, family).stack
        groups = _Groups(inputs, family, self.layers)
        handles = [stack.layers[0].register_forward_pre_hook(groups.begin, with_kwargs=True)]
        for layer in range(*self.layers):
            handles.append(stack.layers[layer].register_forward_hook(self._deciding(model, stack, groups, layer)))
            handles += self._recalling(stack.layers[layer + 1], groups, layer)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _deciding(self, model: Any, stack: Any, groups: _Groups, layer: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            hidden = groups.by_row(output[0] if isinstance(output, tuple) else output)
            for row, group in groups.of(hidden.shape[1]):
                p = _early(model, stack, hidden[row, group[-1]]).topk(10).values.double().softmax(-1)
                entropy = float(-(p * p.log()).sum() / math.log(10))
                key = row, groups.number(hidden, group)
                if entropy > self.tau and key not in groups.at:
                    groups.at[key] = layer, entropy

        return hook

    def _recalling(self, block: Any, groups: _Groups, layer: int) -> list[Any]:
        entry = next(getattr(block, name) for name in ("mlp", "feed_forward", "fc1") if hasattr(block, name))
        norms = ("post_feedforward_layernorm", "post_mlp_layernorm", "fc2")
        leave = next((getattr(block, name) for name in norms if hasattr(block, name)), entry)
        read: list[Tensor] = []

        def note(_: Any, args: Any, kwargs: Any) -> None:
            read[:] = [groups.by_row(args[0] if args else kwargs["hidden_states"])]

        def change(_: Any, __: Any, output: Any) -> Any:
            plain = output[0] if isinstance(output, tuple) else output
            new = groups.by_row(plain).clone()
            for row, group in groups.of(new.shape[1]):
                if groups.at.get((row, groups.number(new, group)), (-1,))[0] == layer:
                    new[row, group] = self.mixed(new[row, group], read[0][row, group], groups.features[row])
            new = new.reshape(plain.shape)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return [
            entry.register_forward_pre_hook(note, with_kwargs=True),
            leave.register_forward_hook(change),
        ]

    def mixed(self, ffn: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """(tokens, width) of one group; z (N, width)."""
        ffn, x, z = ffn.double(), x.double(), z.double()
        recalled = sum(self.activation(x @ one)[:, None] * one for one in z)
        scale = ffn.abs().mean() / recalled.abs().mean()
        return ((1 - self.r) * ffn + self.r * scale * recalled).float()


class _Groups:
    """Which tokens of a row are decided for together, where each group was unsure, and the image features of rows."""

    def __init__(self, inputs: dict[str, Tensor], family: Any, layers: tuple[int, int]) -> None:
        self.image, self.there = inputs["input_ids"] == family.image_token, inputs["attention_mask"].bool()
        self.rows, self.prompt = self.image.shape
        self.features: list[Tensor] = []
        self.at: dict[tuple[int, int], tuple[int, float]] = {}
        self.length = 0

    def begin(self, _: Any, args: Any, kwargs: Any) -> None:
        hidden = self.by_row(args[0] if args else kwargs["hidden_states"])
        self.length, self.at = hidden.shape[1], {}
        self.features = [hidden[row, : self.prompt][self.image[row]] for row in range(self.rows)]

    def by_row(self, hidden: Tensor) -> Tensor:
        return hidden.reshape(self.rows, -1, hidden.shape[-1])

    def of(self, count: int) -> Iterator[tuple[int, list[int]]]:
        """Groups of the newest `count` tokens, as numbers among these, of rows with images."""
        unread = self.length - count
        for row in range(self.rows):
            if self.image[row].any():
                prompt = [j for j in range(unread, self.prompt) if self.there[row, j]]
                for group in ([prompt] if prompt else []) + [[j] for j in range(max(self.prompt, unread), self.length)]:
                    yield row, [j - unread for j in group]

    def number(self, hidden: Tensor, group: list[int]) -> int:
        return group[-1] + self.length - hidden.shape[1]


def _early(model: Any, stack: Any, hidden: Tensor) -> Tensor:
    norm = getattr(stack, "norm", None) or stack.final_layer_norm
    logits = model.get_output_embeddings()(norm(hidden[None]))[0].float()
    cap = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    caps = cap is not None and "final_logit_softcapping" in inspect.getsource(type(model))
    return cap * torch.tanh(logits / cap) if caps else logits


CASES = (
    Case("memvr", (MemVR(r=0.4, tau=0.99, layers=(0, 3)),), steering=Retracing((0, 3), 0.4, 0.99)),
    Case(
        "memvr-auto-silu",
        (MemVR(r=0.3, tau=0.0, activation="silu"),),
        steering=Retracing((1, 2), 0.3, 0.0, torch.nn.functional.silu),
        everywhere=False,
    ),
)
