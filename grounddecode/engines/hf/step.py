"""Step: one forward pass of the decoder as the engine keeps it, and the views methods get of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grounddecode.method import Method
from grounddecode.view import Phase, StepView, VisionView

if TYPE_CHECKING:
    from grounddecode.engines.hf.attention import Capture

FLAGS = "flags"  # key of the token flags in `Sequence.memory`


@dataclass
class Sequence:
    """What is known of the sequences being generated: their prompt, in padded columns, and what methods remember.

    `memory`: by method and layer, tensors whose first dimension is the row of the cache. `twin` is the second stream's
    sequence: its rows stand behind the main ones in one cache once both have read the prompt.
    """

    prompt_length: int
    image: Tensor  # (rows, prompt) bool
    memory: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    twin: Sequence | None = None
    vision: VisionView | None = None  # its keys are the columns of the prompt
    fixed: str | None = None  # why its rows may not be reordered, if so

    @property
    def rows(self) -> int:
        return self.image.shape[0]

    @cached_property
    def all_see(self) -> bool:
        """Whether every row has an image; one host read a sequence."""
        return bool(self.image.any(dim=1).all())

    @property
    def image_end(self) -> Tensor:
        """(rows,) long: position of the last image token, -1 without image."""
        positions = torch.arange(self.image.shape[1], device=self.image.device)
        return torch.where(self.image, positions, -1).amax(dim=1)

    def joined(self) -> Sequence:
        """Main rows, then the rows of the twin, as one sequence."""
        if self.twin is None:
            return self
        memory = {key: torch.cat([value, self.twin.memory[key]]) for key, value in self.memory.items()}
        joined = Sequence(self.prompt_length, torch.cat([self.image, self.twin.image]), memory)
        joined.all_see = self.all_see
        if self.vision is not None:
            joined.vision = self.vision.of_rows(torch.arange(self.rows, device=self.vision.first.device).repeat(2))
        return joined

    def split(self, joined: Sequence) -> None:
        """Take back what was remembered during a forward pass over `joined`."""
        if self.twin is not None:
            self.memory = {key: value[: self.rows] for key, value in joined.memory.items()}
            self.twin.memory = {key: value[self.rows :] for key, value in joined.memory.items()}

    def reorder(self, beams: Tensor) -> Tensor:
        """Follow a beam reordering; returns the rows of the cache to keep, those of the twin included."""
        if self.fixed is not None:
            raise ValueError(self.fixed)
        self._select(beams)
        if self.twin is None:
            return beams
        self.twin._select(beams)
        return torch.cat([beams, beams + self.rows])

    def _select(self, rows: Tensor) -> None:
        self.image = self.image[rows.to(self.image.device)]
        self.memory = {key: value[rows.to(value.device)] for key, value in self.memory.items()}
        if self.vision is not None:
            self.vision = self.vision.of_rows(rows.to(self.vision.first.device))


@dataclass
class Step:
    """One forward pass: `length` new tokens behind `past` cached ones, the same for every (left-padded) row."""

    sequence: Sequence
    n_layers: int
    past: int
    length: int
    seen: set[int] = field(default_factory=set)
    recorded: dict[int, Tensor] = field(default_factory=dict)  # layer -> (rows, keys) head mean of the last prompt row
    record: bool = False
    second_logits: Tensor | None = None
    capture: Capture | None = None  # records the last row for gradients
    _views: dict[tuple[int, int, int, torch.device], StepView] = field(default_factory=dict)
    biases: dict[object, tuple[Tensor | None, Tensor]] = field(default_factory=dict)  # shared by layers of one kind
    _image_end: Tensor | None = None
    _first_image_end: int | None = None

    @property
    def total(self) -> int:
        return self.past + self.length

    @property
    def phase(self) -> Phase:
        if self.total <= self.sequence.prompt_length:
            return Phase.PROMPT
        return Phase.DECODE if self.past >= self.sequence.prompt_length else Phase.MIXED

    @property
    def completes_prompt(self) -> bool:
        """Whether the last prompt row is among the queries of this forward."""
        return self.past < self.sequence.prompt_length <= self.total

    @property
    def generated(self) -> int:
        return max(0, self.total - self.sequence.prompt_length)

    @property
    def image_end(self) -> Tensor:
        if self._image_end is None:
            self._image_end = self.sequence.image_end
        return self._image_end

    def first_query(self, methods: Iterable[Method]) -> int:
        """Index of the first query of this forward that an edit of any of the methods concerns; `length` if none."""
        first = self.sequence.prompt_length - 1
        if any(method.rows == "after_image" for method in methods):
            if self._first_image_end is None:  # one host read a sequence, shared by all layers and steps
                ends = self.image_end[self.image_end >= 0]
                self._first_image_end = int(ends.min()) if len(ends) else self.total
            first = min(first, self._first_image_end + 1)
        return min(max(first - self.past, 0), self.length)

    def view(self, start: int, stop: int, keys: int, device: torch.device) -> StepView:
        """What methods see of queries `start:stop` of this forward against `keys` keys; rows are batch-major.

        With a growing cache the last key is the newest token, also when a sliding window dropped old ones; a static
        cache has more keys than tokens and starts at position 0.
        """
        known = (start, stop, keys, device)
        if known not in self._views:
            self._views[known] = self._make_view(*known)
        return self._views[known]

    def _make_view(self, start: int, stop: int, keys: int, device: torch.device) -> StepView:
        sequence, count = self.sequence, stop - start
        positions = torch.arange(keys, device=device) + max(0, self.total - keys)
        inside = positions < sequence.prompt_length
        at = positions.clamp(max=sequence.prompt_length - 1)
        image = sequence.image.to(device)[:, at] & inside
        return StepView(
            phase=self.phase,
            step=self.generated,
            n_layers=self.n_layers,
            slots=torch.arange(sequence.rows, device=device).repeat_interleave(count),
            queries=(self.past + torch.arange(start, stop, device=device)).repeat(sequence.rows),
            keys=positions,
            image=image.repeat_interleave(count, dim=0) if count > 1 else image,
            image_end=self.image_end.to(device).repeat_interleave(count),
            prompt_length=sequence.prompt_length,
            every_row=self.phase is Phase.DECODE and sequence.all_see,
            vision=None if sequence.vision is None else sequence.vision.at(at, inside, count),
        )

    def layer_view(self, start: int, stop: int, keys: int, device: torch.device, layer: int) -> StepView:
        """`view` with what is special to one layer: its token flags, if a method asked for them."""
        view = self.view(start, stop, keys, device)
        known = self.sequence.memory.get((FLAGS, layer))
        if known is None:
            return view
        offset = max(0, self.total - keys)
        flags = (known if known.shape[1] == keys else known[:, offset : offset + keys]).to(device)
        if flags.shape[1] < keys:  # a static cache has room for tokens to come
            flags = torch.nn.functional.pad(flags, (0, keys - flags.shape[1]))
        if stop - start > 1:
            flags = flags.repeat_interleave(stop - start, dim=0)
        return view.with_(flags=flags, memo=view.memo)

    def last_view(self, device: torch.device) -> StepView:
        """The view of the last query against all positions seen so far: what logits are adjusted with."""
        return self.view(self.length - 1, self.length, self.total, device)
