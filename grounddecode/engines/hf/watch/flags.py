"""Token flags: what a method says of every token from the input of each decoder layer, kept as bits."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grounddecode.engines.grouped.replay import PAYS_FROM, Replay
from grounddecode.engines.hf.attention.card import on_card
from grounddecode.engines.hf.decoder import AttentionLayer
from grounddecode.engines.hf.generation import FLAGS
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.step import Step
from grounddecode.engines.hf.transformers_names import layer_kind, shares_keys
from grounddecode.method import Method


class TokenFlags(Part):
    """Calls `flag_tokens` of a method on the input of each layer its edit acts on.

    One bool a layer, row and token of the sequence, in `Sequence.memory`: so the flags follow beams, and every stream
    has its own. They are cut to what is cached before new ones are appended, so those of rejected draft tokens vanish.
    Layers that share the keys of an earlier layer share its flags: most of their inputs may never be computed.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._known_peaks: dict[int, tuple[tuple[int, ...], float] | None] = {}  # by width
        self._graphs: dict[Hashable, Replay] = {}  # of one token a row on a card, see `engines.grouped.replay`

    def act(self) -> None:
        decoder = self.binding.decoder
        for layer in decoder.layers:
            if not layer.cross and self.method.acts_on(layer.index, decoder.n_layers):
                hook = functools.partial(self._note, layer.index, _source(layer, decoder.layers))
                self.binding.hook(layer.block.register_forward_pre_hook, hook, with_kwargs=True)

    def _note(self, layer: int, source: int, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        step = self.binding.step
        if step is None:
            return
        memory = step.sequence.memory
        if source != layer and (FLAGS, source) in memory:
            memory[FLAGS, layer] = memory[FLAGS, source]
            return
        hidden = args[0] if args else kwargs["hidden_states"]
        if step.is_newest and self._in_place(hidden, layer, step):
            return
        flags = self._flagged(hidden, layer, step)
        if flags.shape != (step.sequence.rows, step.length):
            raise RuntimeError(
                f"{self.method.name}: layer {layer} read {flags.shape[1]} tokens where {step.length} were expected, "
                "this model drops tokens between its layers and is not supported"
            )
        memory[FLAGS, layer] = _append(memory.get((FLAGS, layer)), flags, step)

    def _in_place(self, hidden: Tensor, layer: int, step: Step) -> bool:
        """On a card, for a method that says by which peaks: one launch writes the flags behind those that are known."""
        peaks = self._peaks(hidden.shape[-1])
        if peaks is None or not on_card(hidden) or torch.is_grad_enabled():
            return False
        sequence, past, known = step.sequence, step.past, step.sequence.memory.get((FLAGS, layer))
        room, shown = sequence.kept.get((FLAGS, layer), (None, None))
        if known is None or known.shape[1] != past or not hidden.is_contiguous() or known.device != hidden.device:
            return False
        if room is None or room.shape[1] == past:
            room = nn.functional.pad(known, (0, past))
        elif known is not shown:  # rows were reordered, and may be so at every step
            return False
        from grounddecode.engines.grouped.peaks import flag_peaks

        flag_peaks(hidden, *peaks, room, past)
        shown = sequence.memory[FLAGS, layer] = room[:, : past + 1]
        sequence.kept[FLAGS, layer] = room, shown
        return True

    def _peaks(self, width: int) -> tuple[tuple[int, ...], float] | None:
        if width not in self._known_peaks:
            self._known_peaks[width] = self.method.flag_peaks(width)
        return self._known_peaks[width]

    def _flagged(self, hidden: Tensor, layer: int, step: Step) -> Tensor:
        """What the method says; on a card, where it says the same in every layer, by one launch a step and layer."""
        graphed = hidden.is_cuda and step.generated >= PAYS_FROM and not self.method.flags_by_layer
        if not graphed or step.length > 1 or torch.is_grad_enabled() or torch.cuda.is_current_stream_capturing():
            return self.method.flag_tokens(hidden, layer)
        known = (hidden.shape, hidden.dtype, hidden.device)
        if known not in self._graphs:
            buffer = torch.ones_like(hidden)
            self._graphs[known] = Replay(lambda given: self.method.flag_tokens(given, layer), [buffer])
        graph = self._graphs[known]
        graph.inputs[0].copy_(hidden)
        return graph()  # `_append` makes another tensor of it


def _append(known: Tensor | None, new: Tensor, step: Step) -> Tensor:
    if known is None or not step.past:
        return new
    kept = known if known.shape[1] == step.past else known[:, : step.past]
    return torch.cat([kept.to(new.device), new], dim=1)


def _source(layer: AttentionLayer, layers: Sequence[AttentionLayer]) -> int:
    """The layer whose keys and values this one reads (Gemma 3n and 4: the last of its kind that has its own)."""
    if not shares_keys(layer.module):
        return layer.index
    owners = [
        other.index
        for other in layers
        if not shares_keys(other.module) and layer_kind(other.module) == layer_kind(layer.module)
    ]
    return max(owners, default=layer.index)
