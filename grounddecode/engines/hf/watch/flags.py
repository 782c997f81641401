"""Token flags: what a method says of every token from the input of each decoder layer, kept as bits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
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
                note = functools.partial(self._note, layer.index, _source(layer, decoder.layers))
                self.binding.layer(layer.block, "forward", functools.partial(_before, note))

    def _note(self, layer: int, source: int, hidden: Tensor) -> None:
        here = self.binding.here
        step = here.step
        if step is None or here.aside:
            return
        memory = step.sequence.memory
        if source != layer and (FLAGS, source) in memory:
            memory[FLAGS, layer] = memory[FLAGS, source]
            return
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
        sequence, past, key = step.sequence, step.past, (FLAGS, layer)
        behind, known = sequence.kept.get(key), sequence.memory.get(key)
        if behind is not None and known is not behind.shown:  # rows were reordered, and may be so at every step
            return False
        if behind is None or not behind.fits(hidden, past):
            if known is None or known.shape[1] != past:
                return False
            behind = sequence.kept[key] = self._room(hidden, known)
            if behind is None:
                return False
        sequence.memory[key] = behind.write(hidden, past)
        return True

    def _room(self, hidden: Tensor, known: Tensor) -> _Room | None:
        """Where flags of tokens like these can be written behind the known ones; None: not so."""
        peaks = self._peaks(hidden.shape[-1])
        if peaks is None or not on_card(hidden) or torch.is_grad_enabled() or known.device != hidden.device:
            return None
        return _Room(hidden, peaks, known) if hidden.is_contiguous() else None

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


class _Room:
    """The flags of a layer with room for as many again; `shown`: those that are known."""

    __slots__ = ("_all", "_device", "_dtype", "_peaks", "_shape", "_size", "shown")

    def __init__(self, hidden: Tensor, peaks: tuple[tuple[int, ...], float], known: Tensor) -> None:
        from grounddecode.engines.grouped.peaks import Peaks

        self._size = 2 * known.shape[1]
        self._all, self.shown = nn.functional.pad(known, (0, known.shape[1])), known
        self._peaks = Peaks(hidden, *peaks, self._all)
        self._shape, self._dtype, self._device = hidden.shape, hidden.dtype, hidden.device

    def fits(self, hidden: Tensor, past: int) -> bool:
        """Whether flags of these tokens, with number `past`, can be written."""
        return (
            past < self._size
            and self.shown.shape[1] == past
            and hidden.dtype is self._dtype
            and hidden.shape == self._shape
            and hidden.device == self._device
            and hidden.is_contiguous()
            and not torch.is_grad_enabled()
        )

    def write(self, hidden: Tensor, past: int) -> Tensor:
        """The known flags and one more, (rows, past + 1)."""
        self._peaks(hidden, self._all, past)
        self.shown = self._all.narrow(1, 0, past + 1)
        return self.shown


def _before(note: Callable[[Tensor], None], under: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The layer over the forward of a decoder block."""
    note(args[0] if args else kwargs["hidden_states"])
    return under(*args, **kwargs)


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
