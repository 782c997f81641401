"""Sequence: what the engine knows of the rows being generated, from the first prompt token to the last new one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass, field, replace
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


def _stacked(parts: Sequence_[Tensor]) -> Tensor:
    """Rows below each other; zeros before columns where there are fewer, and behind vectors that are not columns."""
    width, device = max(part.shape[1] for part in parts), parts[0].device
    short = [(part.to(device), width - part.shape[1]) for part in parts]
    return torch.cat([nn.functional.pad(x, (n, 0) if x.dim() == 2 else (0, 0, 0, n)) for x, n in short])


def _known(stream: Sequence, key: tuple[str, int], like: Tensor) -> Tensor:
    """What is remembered of a stream's rows; where its prompt gave nothing, nothing."""
    return stream.memory.get(key, like[:, :0])


def _seen(views: Sequence_[VisionView]) -> VisionView:
    """What the vision tower said of the images of several streams, below each other."""
    one = views[0]
    images, places = [], []
    for number, view in enumerate(views):
        own = number if view.first is not one.first else 0
        images.append(torch.where(view.image_of_key < 0, 0, view.image_of_key + 1 + own * len(one.first)))
        places.append(view.patch_of_key)
    image, patch = _stacked(images) - 1, _stacked(places)
    if all(view.first is one.first for view in views):
        return replace(one, image_of_key=image, patch_of_key=patch)
    first, last, received = (torch.cat([getattr(x, name) for x in views]) for name in ("first", "last", "received"))
    return VisionView(first=first, last=last, received=received, image_of_key=image, patch_of_key=patch)


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
    kept: dict[Hashable, Tensor] = field(default_factory=dict)  # what methods say of every column, see `card`
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

    `remembered`: by method and layer, tensors whose first dimension is the row of the cache, as `memory` has them but
    for what rooms took since they were asked last. `states`: what methods remember of the rows. `joined`: these rows
    and, behind them, those of the second stream, which share one cache once both have read the prompt.
    """

    prompt_length: int
    image: Tensor  # (rows, prompt) bool
    ids: Tensor  # (rows, prompt) long; rows of one request have the same
    there: Tensor  # (rows, prompt) bool: no padding
    remembered: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    states: dict[Method, Any] = field(default_factory=dict)
    joined: Sequence | None = None
    further: int = 0  # columns that the longest prompt of a further stream has before this one, in the joined cache
    vision: VisionView | None = None  # its keys are the columns of the prompt
    fixed: str | None = None  # why its rows may not be reordered, if so
    read: int = 0  # tokens of every row, prompt and answer, that forward passes were given so far
    kept: dict[object, Any] = field(default_factory=dict)  # what parts of the engine keep of it
    rooms: dict[int, Any] = field(default_factory=dict)  # by layer, see `watch.flags`
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

    @property
    def memory(self) -> dict[tuple[str, int], Tensor]:
        """What is remembered of the rows, up to the newest token."""
        for room in self.rooms.values():
            room.show(self.remembered)
        return self.remembered

    def flags_of(self, layer: int) -> Tensor | None:
        """(rows, tokens) bool: the token flags of a layer, if a method asked for them."""
        room = self.rooms.get(layer)
        if room is not None:
            room.show(self.remembered)
        return self.remembered.get((FLAGS, layer))

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

    def join(self, twins: Sequence_[Sequence]) -> None:
        """Put the rows of further streams behind these: what decode steps run over, and where memory lives on.

        Prompts are padded on the left to the longest of them.
        """
        all_rows = (self, *twins)
        length = max(stream.prompt_length for stream in all_rows)
        self.further = length - self.prompt_length
        memory = {key: _stacked([_known(x, key, value) for x in all_rows]) for key, value in self.memory.items()}
        image, ids, there = (_stacked([getattr(x, name) for x in all_rows]) for name in ("image", "ids", "there"))
        self.joined = Sequence(length, image, ids, there, memory)
        self.joined.all_see = self.all_see and not any(twin.is_plain for twin in twins)
        if self.vision is not None:
            self.joined.vision = _seen([x.vision or self.vision for x in all_rows])
        self.remembered = {}

    def reorder(self, beams: Tensor) -> Tensor:
        """Follow a beam reordering; returns the rows of the cache to keep, those of the second stream included."""
        if self.fixed is not None:
            raise ValueError(self.fixed)
        self._select(beams)
        if self.joined is None:
            return beams
        streams = self.joined.rows // self.rows
        every = torch.cat([beams + stream * self.rows for stream in range(streams)])
        self.joined._select(every)
        return every

    def _select(self, rows: Tensor) -> None:
        kept = rows.to(self.image.device)
        self.image, self.ids, self.there = self.image[kept], self.ids[kept], self.there[kept]
        self.remembered = {key: value[rows.to(value.device)] for key, value in self.memory.items()}
        self.states = {method: rows_of(state, rows) for method, state in self.states.items()}
        if self.vision is not None:
            self.vision = self.vision.of_rows(rows.to(self.vision.image_of_key.device))
        self._columns.clear()
