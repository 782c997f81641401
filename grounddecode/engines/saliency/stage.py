"""The way back of decode steps over memory of fixed shapes and addresses, as a CUDA graph has to have it.

The keys grow by one a step, so there is room for more of them than there are, and those behind the rows' own have no
weight. Float32 keys and values stay from step to step: where nothing before has changed, the newest of each block is
all that has to come. The attention weights are made here, too, of queries as the model has them. Neither engine is
known here, and nothing needs a card: what a step computes is one function of tensors, which a graph may hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.engines.saliency.way_back import Norm, Passed, Products, Turn, Way, down

_STEP, _LEAST = 128, 64  # the room is a multiple of the first, and begins with so much to come


@dataclass(frozen=True)
class Block:
    """What the way back needs of a block that is the same in every step."""

    layer: int
    products: Products
    norms: tuple[Norm, Norm]


@dataclass(frozen=True)
class Blocks:
    """The blocks that rows pass, ascending, the norm behind them, and what is done with them.

    Attributes:
        wanted: layers whose saliency is asked for.  scaling: of scores.
        rotation: what becomes of the rows of the identity (R, D, D), of cosines, sines (R or 1, 1, D) and R.
        start: gradients (R, K, width) of the last hidden states, of logits (R, vocabulary) and tokens (R, K).
    """

    blocks: Sequence[Block]
    norm: Norm
    wanted: Sequence[int]
    scaling: float
    rotation: Callable[[Tensor, Tensor, int], Tensor]
    start: Callable[[Tensor, Tensor], Tensor]


@dataclass
class Taken:
    """What one decode step leaves, one token a row, as it comes. Lists have an entry a block.

    Attributes:
        totals: (R, 1, width), what each norm was given: two a block, then the one behind the last.
        gates, factors: (R, 1, inner), before SiLU, and what its output is multiplied with.
        queries: (R, H, 1, D), turned.  keys, values: (R, Hkv, 1, D), the newest.
        angles: cosines and sines, (R or 1, 1, D).  logits: (R, vocabulary).  tokens: (R, K).
    """

    totals: list[Tensor]
    gates: list[Tensor]
    factors: list[Tensor]
    queries: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    angles: tuple[Tensor, Tensor]
    logits: Tensor
    tokens: Tensor

    @property
    def kinds(self) -> list[list[Tensor]]:
        """Tensors that lie in one buffer, each."""
        lists = [self.totals, self.gates, self.factors, self.queries, self.keys, self.values]
        return [*lists, list(self.angles), [self.logits], [self.tokens]]

    @property
    def shape(self) -> tuple[torch.Size, ...]:
        """What may differ from step to step."""
        return self.queries[0].shape, self.angles[0].shape, self.logits.shape, self.tokens.shape


def room_for(keys: int) -> int:
    """How many keys there is room for where a stage begins with so many."""
    return -(-(keys + _LEAST) // _STEP) * _STEP


class Stage:
    """Buffers for steps like one, and what `found` makes of them.

    Args:
        keys: room for so many.  heads: that what is added to scores differs in; 1: in none.
        wide: of keys, values and gradients.
    """

    def __init__(
        self, made: Blocks, taken: Taken, keys: int, heads: int = 1, wide: torch.dtype = torch.float32
    ) -> None:
        self._made, self.keys, self.shape = made, keys, taken.shape
        newest = taken.keys[0]
        self._rows, self._shared, _, self._size = newest.shape
        kinds = taken.kinds
        self._buffers = [kind[0].new_zeros(len(kind), *kind[0].shape) for kind in kinds]
        room = (len(taken.keys), self._rows, self._shared, keys, self._size)
        # zeros: what no weight is given to must still be a number
        self._keys, self._values = (torch.zeros(room, dtype=wide, device=newest.device) for _ in range(2))
        self._bias = torch.zeros(self._rows, heads, keys, dtype=wide, device=newest.device)
        self._biased, self.filled = False, 0  # columns of keys and values that hold those of the sequence
        self._positions = torch.arange(keys, device=newest.device)
        self._own = torch.zeros(1, dtype=torch.long, device=newest.device)
        self._groups = _by_type(self._buffers, kinds)

    @property
    def inputs(self) -> list[Tensor]:
        return [*self._buffers, self._keys, self._values, self._bias, self._own]

    @property
    def is_half(self) -> bool:
        """Whether products with weights round to half precision."""
        return self._buffers[0].dtype in (torch.float16, torch.bfloat16)

    def holds(self, taken: Taken, keys: int, bias: Tensor | None) -> bool:
        """Whether a step is like the one that this was made with, and there is room for it."""
        added = bias is None or bias.shape[1] in (1, self._bias.shape[1])
        return keys <= self.keys and added and taken.shape == self.shape

    def fill(
        self, taken: Taken, own: int, bias: Tensor | None, cached: Sequence[tuple[Tensor, Tensor]] | None = None
    ) -> None:
        """Take what a step left.

        Args:
            own: the column of the rows' own keys; there are `own + 1` columns.
            bias: (R or 1, heads or 1, T) added to scores, -inf on keys that are not seen.
            cached: keys and values (R, Hkv, T, D) of each block; None: the columns before `own` are those of the last
                step, and `own` is the next one or the same.
        """
        if cached is not None:
            for mine, pair in zip(zip(self._keys, self._values, strict=True), cached, strict=True):
                for wide, given in zip(mine, pair, strict=True):
                    wide[:, :, : own + 1].copy_(given[:, :, : own + 1])
        elif own not in (self.filled, self.filled - 1):
            raise RuntimeError(f"{self.filled} columns are known, and the next one is not {own}")
        kinds = taken.kinds
        for numbers, places in self._groups:
            torch._foreach_copy_(places, [tensor for number in numbers for tensor in kinds[number]])
        self._own.fill_(own)
        if bias is not None:
            self._bias[..., : bias.shape[-1]].copy_(bias)
        elif self._biased:
            self._bias.zero_()
        self._biased, self.filled = bias is not None, own + 1

    def found(self, *_: Tensor) -> Tensor:
        """(wanted, R, K, room): `way_back.down` of what was taken, 0 behind the rows' own keys."""
        with torch.no_grad():
            return self._found()

    def _found(self) -> Tensor:
        totals, gates, factors, queries, newest_keys, newest_values, angles, logits, tokens = self._buffers
        made = self._made
        for known, newest in ((self._keys, newest_keys), (self._values, newest_values)):
            known.index_copy_(3, self._own, newest.to(known.dtype))
        keys, values = self._keys.flatten(1, 2), self._values.flatten(1, 2)
        asked = (queries.to(keys.dtype) * made.scaling).view(*keys.shape[:2], -1, self._size)
        weights = self._weights(asked @ keys.mT)
        turn = Turn.of(made.rotation(angles[0], angles[1], self._rows), made.scaling)
        totals, gates, factors = totals[:, :, 0], gates[:, :, 0], factors[:, :, 0]
        passed = [
            Passed(
                block.layer, block.products, block.norms, (totals[2 * at], totals[2 * at + 1]), gates[at], factors[at],
                keys[at], values[at], asked[at], weights[at], self._own, turn,
            )
            for at, block in enumerate(made.blocks)
        ]  # fmt: skip
        return torch.stack(down(Way(passed, made.norm, totals[-1]), made.start(logits[0], tokens[0]), made.wanted))

    def _weights(self, scores: Tensor) -> Tensor:
        """(blocks, R * Hkv, H / Hkv, room), of scores of this shape."""
        rows, heads, keys = self._bias.shape
        bias = self._bias.view(rows, *((1, 1) if heads == 1 else (self._shared, -1)), keys)
        scores = scores.view(len(scores), rows, self._shared, -1, keys) + bias
        weights = torch.softmax(scores.masked_fill_(self._positions > self._own, -torch.inf), dim=-1)
        return weights.flatten(1, 2)


def _by_type(buffers: Sequence[Tensor], kinds: Sequence[Sequence[Tensor]]) -> list[tuple[list[int], list[Tensor]]]:
    """Numbers of buffers of one type, and the places in all of them: one launch fills them."""
    groups: dict[torch.dtype, tuple[list[int], list[Tensor]]] = {}
    for number, (buffer, kind) in enumerate(zip(buffers, kinds, strict=True)):
        numbers, places = groups.setdefault(buffer.dtype, ([], []))
        numbers.append(number)
        places.extend(_like(place, given) for place, given in zip(buffer, kind, strict=True))
    return list(groups.values())


def _like(place: Tensor, given: Tensor) -> Tensor:
    """The same memory, with the strides of what is copied to it: those of one element alike, else each is a launch."""
    return place.as_strided(given.shape, given.stride()) if given.is_contiguous() else place
