"""Step: one forward pass of the decoder as the engine keeps it, and the views methods get of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.generation import Sequence
from grounddecode.engines.plan import first_query
from grounddecode.method import Method
from grounddecode.view import Lens, Phase, StepView, VisionView

if TYPE_CHECKING:
    from grounddecode.engines.hf.attention.call import Call, Output
    from grounddecode.engines.plan import LayerPlan


class Capture(ABC):
    """What stands between the model and its attention while something is recorded of it."""

    @property
    def repeats(self) -> bool:
        """Whether a block is being run once more, for the last row of a prompt."""
        return False

    def leaves(self, call: Call, plan: LayerPlan, step: Step) -> bool:
        """Whether the attention of this call is the usual one, without more."""
        return False

    @abstractmethod
    def attend(self, call: Call, usual: Callable[[], Output], plan: LayerPlan, step: Step) -> Output:
        """The attention of one layer."""


class Keys(Protocol):
    """What hides image keys from a second stream in some layers."""

    def hides(self, layer: int) -> bool: ...

    def at(self, call: Call, plan: LayerPlan, step: Step) -> Call: ...

    def seen_by_any(self, call: Call) -> Call: ...


@dataclass
class Step:
    """One forward pass: `length` new tokens behind `past` cached ones, the same for every (left-padded) row."""

    sequence: Sequence
    n_layers: int
    past: int
    length: int
    kernel: str  # of attention
    seen: set[int] = field(default_factory=set)
    recorded: dict[int, Tensor] = field(default_factory=dict)  # layer -> (rows, keys) head mean of the last prompt row
    record: bool = False
    parallel: bool = False  # rows of several streams
    newest_only: int | None = None  # a layer behind which only the newest token is read
    second_logits: Tensor | None = None
    wanted: AbstractSet[str] = frozenset()  # of the newest query's attention to the image
    looks: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # layer -> that, under the trace's names
    hidden: dict[int, Tensor] = field(default_factory=dict)  # layer -> (rows, width) behind it, of the newest token
    exits: dict[int, Tensor] = field(default_factory=dict)  # layers passed -> (rows, vocabulary), see `StepView.exits`
    lens: Lens | None = None
    shown: bool = False  # a trace has seen the logits of this step
    capture: Capture | None = None  # records the last row for gradients
    keys: Keys | None = None  # hides image keys in some layers
    _views: dict[tuple[int, int, int, torch.device], StepView] = field(default_factory=dict)
    biases: dict[object, tuple[Tensor | None, Tensor]] = field(default_factory=dict)  # shared by layers of one kind
    ways: dict[int, Any] = field(default_factory=dict)  # id of edits -> how their layers go (`attention.ways.Way`)
    _tails: dict[int, Step] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prompt = self.sequence.prompt_length
        self.total = self.past + self.length
        self.generated = max(0, self.total - prompt)  # tokens of the answer so far
        self.completes_prompt = self.past < prompt <= self.total  # the last prompt row is among the queries
        if self.total <= prompt:
            self.phase = Phase.PROMPT
        else:
            self.phase = Phase.DECODE if self.past >= prompt else Phase.MIXED
        self.is_newest = self.length == 1 and self.phase is Phase.DECODE  # of an answer, one token a row

    def refuse_several(self, name: str) -> None:
        """Raise ValueError: a method that takes an answer token by token is to say what follows several."""
        count = min(self.length, self.generated + 1)  # the last one of a prompt and those behind it, or the latter
        raise ValueError(
            f"{name} takes an answer token by token and was given {count} at once, switch assisted decoding off, "
            "and by hand begin every turn with the whole prompt"
        )

    def tail(self, length: int) -> Step:
        """The same forward pass for its newest `length` tokens alone: what layers see that are given no others."""
        if length not in self._tails:
            self._tails[length] = Step(
                self.sequence,
                self.n_layers,
                self.total - length,
                length,
                self.kernel,
                seen=self.seen,
                recorded=self.recorded,
                record=self.record,
                keys=self.keys,
            )
        return self._tails[length]

    def look(self, vision: VisionView) -> None:
        """Take what the vision tower said of the images; views made before know nothing of it."""
        self.sequence.look(vision)
        self._views.clear()

    def first_query(self, methods: Iterable[Method]) -> int:
        """Index of the first query of this forward that an edit of any of the methods concerns; `length` if none."""
        sequence = self.sequence
        if self.past >= sequence.prompt_length - 1:
            return 0
        first = first_query(methods, sequence.prompt_length, sequence.first_image_end)
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
        first = max(0, self.total - keys)
        columns = sequence.columns(max(first + keys, self.total), device)
        queries = columns.positions[self.past + start : self.past + stop].repeat(sequence.rows)
        per_row = (columns.image[:, first : first + keys], columns.padding[:, first : first + keys])
        image, padding, slots, image_end = (*per_row, columns.slots, columns.image_end)
        if count > 1:
            rows = (image, padding, slots, image_end)
            image, padding, slots, image_end = (x.repeat_interleave(count, dim=0) for x in rows)
        return StepView(
            phase=self.phase,
            step=self.generated,
            n_layers=self.n_layers,
            slots=slots,
            queries=queries,
            keys=columns.positions[first : first + keys],
            image=image,
            padding=padding,
            image_end=image_end,
            prompt_length=sequence.prompt_length,
            every_row=self.phase is Phase.DECODE and sequence.all_see,
            vision=None if columns.vision is None else columns.vision.at(first, first + keys, count),
            laid_out=partial(columns.of_image, first, first + keys, count),
        )

    def layer_view(self, start: int, stop: int, keys: int, device: torch.device, layer: int) -> StepView:
        """`view` with what is special to one layer: its token flags, if a method asked for them."""
        view = self.view(start, stop, keys, device)
        known = self.sequence.flags_of(layer)
        if known is None:
            return view
        offset = max(0, self.total - keys)
        flags = (known if known.shape[1] == keys else known[:, offset : offset + keys]).to(device)
        if flags.shape[1] < keys:  # a static cache has room for tokens to come
            flags = nn.functional.pad(flags, (0, keys - flags.shape[1]))
        if stop - start > 1:
            flags = flags.repeat_interleave(stop - start, dim=0)
        return view.with_(flags=flags, memo=view.memo)

    def answer_view(self, device: torch.device) -> StepView:
        """`last_view` with all that is known once the forward pass is done."""
        read = {"hidden": self.hidden or None, "exits": self.exits or None, "lens": self.lens}
        return self.last_view(device).with_(second_logits=self.second_logits, **read)

    def last_view(self, device: torch.device) -> StepView:
        """The view of the last query against all positions seen so far: what logits are adjusted with."""
        return self.view(self.length - 1, self.length, self.total, device)
