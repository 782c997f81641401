"""Sequence: what the engine knows of the rows being generated, from the first prompt token to the last new one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.state import rows_of
from grounddecode.images.layout import image_ends
from grounddecode.view import VisionView

if TYPE_CHECKING:
    from grounddecode.method import Method
    from grounddecode.view import StepView

FLAGS, FEATURES = "flags", "features"  # keys in `Sequence.memory`: of token flags, and of image features at layer 0

_ROOM = 256  # columns are laid out for this many tokens to come, then for twice as many as there are


@dataclass(frozen=True)
class Columns:
    """What is known of every column of the padded sequences, with room for tokens to come, on one device.

    A step's view is made of slices of these, so that it costs no computation. positions: (room,) long; image: (rows,
    room) bool, padding likewise; image_end, slots: (rows,) long; vision: over the same columns.
    """

    positions: Tensor
    image: Tensor
    padding: Tensor
    image_end: Tensor
    slots: Tensor
    vision: VisionView | None
    ahead: dict[int, tuple[int, Tensor]] = field(default_factory=dict)  # see `gains`
    _of_image: dict[Hashable, Tensor] = field(default_factory=dict)
    _part: dict[Hashable, tuple[int, int, Tensor]] = field(default_factory=dict)  # the one that was asked for last

    def of_image(self, start: int, stop: int, count: int, function: Callable[..., Tensor], *args: Hashable) -> Tensor:
        """What follows from `image` column by column, of the columns `start:stop`; every row `count` times."""
        key = (function, args)
        known = self._part.get(key)
        if known is None or known[:2] != (start, stop):
            if key not in self._of_image:
                self._of_image[key] = function(self.image, *args)
            known = self._part[key] = start, stop, self._of_image[key][..., start:stop]
        return known[2] if count == 1 else known[2].repeat_interleave(count, dim=0)

    @classmethod
    def of(cls, sequence: Sequence, room: int, device: torch.device) -> Columns:
        positions = torch.arange(room, device=device)
        image = sequence.image.to(device)
        return cls(
            positions=positions,
            image=nn.functional.pad(image, (0, room - image.shape[1])),
            padding=nn.functional.pad(~sequence.there.to(device), (0, room - image.shape[1])),
            image_end=image_ends(image),
            slots=torch.arange(sequence.rows, device=device),
            vision=None if sequence.vision is None else sequence.vision.padded(room),
        )


@dataclass
class Sequence:
    """What is known of the sequences being generated: their prompt, in padded columns, and what methods remember.

    `memory`: by method and layer, tensors whose first dimension is the row of the cache. `states`: what methods
    remember of the rows. `joined`: these rows and, behind them, those of the second stream, which share one cache once
    both have read the prompt.
    """

    prompt_length: int
    image: Tensor  # (rows, prompt) bool
    ids: Tensor  # (rows, prompt) long; rows of one request have the same
    there: Tensor  # (rows, prompt) bool: no padding
    memory: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    states: dict[Method, Any] = field(default_factory=dict)
    joined: Sequence | None = None
    vision: VisionView | None = None  # its keys are the columns of the prompt
    fixed: str | None = None  # why its rows may not be reordered, if so
    read: int = 0  # tokens of every row, prompt and answer, that forward passes were given so far
    kept: dict[object, Any] = field(default_factory=dict)  # what parts of the engine keep of it
    _columns: dict[torch.device, Columns] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.image.shape[0]

    @cached_property
    def is_plain(self) -> bool:
        """Whether no row has an image: then every method leaves the model alone; one host read a sequence."""
        return not bool(self.image.any())

    @cached_property
    def all_see(self) -> bool:
        """Whether every row has an image; one host read a sequence."""
        return bool(self.image.any(dim=1).all())

    @cached_property
    def first_image_end(self) -> int:
        """Where the earliest of the rows' images ends, the prompt's length if no row has one; one host read."""
        ends = self.columns(self.prompt_length, self.image.device).image_end
        return int(torch.where(ends >= 0, ends, self.prompt_length).min())

    def columns(self, count: int, device: torch.device) -> Columns:
        """The columns, at least `count` of them."""
        known = self._columns.get(device)
        if known is None or known.positions.shape[0] < count:
            room = max(self.prompt_length + _ROOM, count if known is None else 2 * count)
            known = self._columns[device] = Columns.of(self, room, device)
        return known

    def look(self, vision: VisionView) -> None:
        """Take what the vision tower said of the images."""
        self.vision = vision
        self._columns.clear()

    def state_of(self, method: Method, view: StepView) -> Any:
        """What a method remembers of the rows; to begin with, what `start` makes of their view."""
        if method not in self.states:
            self.states[method] = method.start(view)
        return self.states[method]

    def join(self, twin: Sequence) -> None:
        """Put the rows of the second stream behind these: what decode steps run over, and where memory lives on."""
        memory = {key: _stacked(value, twin.memory[key]) for key, value in self.memory.items()}
        image, ids, there = (
            torch.cat([x, y]) for x, y in ((self.image, twin.image), (self.ids, twin.ids), (self.there, twin.there))
        )
        self.joined = Sequence(self.prompt_length, image, ids, there, memory)
        self.joined.all_see = self.all_see
        if self.vision is not None:
            rows = torch.arange(self.rows, device=self.vision.image_of_key.device).repeat(2)
            self.joined.vision = self.vision.of_rows(rows)
        self.memory = {}

    def reorder(self, beams: Tensor) -> Tensor:
        """Follow a beam reordering; returns the rows of the cache to keep, those of the second stream included."""
        if self.fixed is not None:
            raise ValueError(self.fixed)
        self._select(beams)
        if self.joined is None:
            return beams
        both = torch.cat([beams, beams + self.rows])
        self.joined._select(both)
        return both

    def _select(self, rows: Tensor) -> None:
        self.image, self.there = (x[rows.to(x.device)] for x in (self.image, self.there))
        self.memory = {key: value[rows.to(value.device)] for key, value in self.memory.items()}
        self.states = {method: rows_of(state, rows) for method, state in self.states.items()}
        if self.vision is not None:
            self.vision = self.vision.of_rows(rows.to(self.vision.image_of_key.device))
        self._columns.clear()


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """Rows behind rows; where one has fewer entries each, zeros are put behind its own."""
    if first.dim() == 2 or first.shape[1] == second.shape[1]:
        return torch.cat([first, second])
    most = max(first.shape[1], second.shape[1])
    return torch.cat([nn.functional.pad(x, (0, 0, 0, most - x.shape[1])) for x in (first, second)])
