"""Token flags: what a method says of every token from the input of each decoder layer, kept as bits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grounddecode.engines.grouped.replay import PAYS_FROM, Replay
from grounddecode.engines.hf.attach.layers import layered
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
                over = self._over(layer.index, _source(layer, decoder.layers))
                self.binding.while_running(layered(layer.block, "forward", over))  # it asks itself what runs

    def _over(self, layer: int, source: int) -> Callable[..., Any]:
        """The layer over the forward of a decoder block."""
        here = self.binding.here

        def forward(under: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            step = here.step
            if step is None or here.aside:
                return under(*args, **kwargs)
            hidden = args[0] if args else kwargs["hidden_states"]
            room = step.sequence.rooms.get(layer) if step.is_newest else None
            known = room is not None and room.take(hidden, step)
            if not known and (step.capture is None or not step.capture.repeats):
                self._note(layer, source, hidden, step)
            return under(*args, **kwargs)

        return forward

    def _note(self, layer: int, source: int, hidden: Tensor, step: Step) -> None:
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
        """On a card, for a method that says by which peaks: room for flags behind those that are known."""
        sequence, key = step.sequence, (FLAGS, layer)
        room, known = sequence.rooms.get(layer), sequence.memory.get(key)
        if known is None or known.shape[1] != step.past or known.device != hidden.device:
            return False
        if room is not None and known is not room.shown:  # rows were reordered, and may be so at every step
            return False
        peaks = self._peaks(hidden.shape[-1])
        if peaks is None or not on_card(hidden) or torch.is_grad_enabled() or not hidden.is_contiguous():
            return False
        room = sequence.rooms[layer] = Room(layer, hidden, peaks, known)
        return room.take(hidden, step)

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


class Room:
    """The flags of a layer, in `Sequence.rooms`, with room for as many again.

    `flags` (rows, room). `hidden`: the newest token, if nothing has said yet whether it is flagged: `show` does, or a
    kernel that reads the flags anyway. `ahead`: whether tokens were taken since those that are known were shown.
    """

    __slots__ = (
        "_count", "_device", "_dtype", "_key", "_launch", "_shape", "_size", "ahead", "bound", "flags", "hidden",
        "shown",
    )  # fmt: skip

    def __init__(self, layer: int, hidden: Tensor, peaks: tuple[tuple[int, ...], float], known: Tensor) -> None:
        from grounddecode.engines.grouped.peaks import Bound, Peaks

        self._key = FLAGS, layer
        self._count = known.shape[1]
        self._size = 2 * self._count
        self.flags, self.shown, self.ahead = nn.functional.pad(known, (0, known.shape[1])), known, False
        self.bound = Bound.of(*peaks, hidden)
        self.hidden: Tensor | None = None
        self._launch = Peaks(hidden, self.bound, self.flags)
        self._shape, self._dtype, self._device = hidden.shape, hidden.dtype, hidden.device

    def take(self, hidden: Tensor, step: Step) -> bool:
        """Take the newest token of a step; False: it does not fit."""
        past = step.past
        fits = (
            past == self._count < self._size
            and (self.ahead or step.sequence.remembered.get(self._key) is self.shown)
            and hidden.dtype is self._dtype
            and hidden.shape == self._shape
            and hidden.device == self._device
            and hidden.is_contiguous()
            and not torch.is_grad_enabled()
        )
        if fits:
            self.hidden, self.ahead, self._count = hidden, True, past + 1
        return fits

    def show(self, memory: dict[tuple[str, int], Tensor]) -> None:
        """Write down whether the newest token is flagged, if that is still to do, and what is known into `memory`."""
        if self.hidden is not None:
            self._launch(self.hidden, self.flags, self._count - 1)
            self.hidden = None
        if self.ahead:
            self.shown = memory[self._key] = self.flags.narrow(1, 0, self._count)
            self.ahead = False


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
