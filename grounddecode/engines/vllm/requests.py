"""The requests of a worker that have methods: where each stands, as arrays by slot that a step's plan is made of."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grounddecode.engines.choose import adjusting
from grounddecode.engines.plan import LayerPlan, first_query, plan_layers
from grounddecode.engines.vllm.tally import failed
from grounddecode.images.layout import image_ends, image_mask
from grounddecode.method import Method, Needs

log = logging.getLogger("vllm.grounddecode")
NOBODY = -1  # slot of a row without methods: the last entry of every array
NOWHERE = np.iinfo(np.int64).max // 2  # first concerned position of a request that no edit concerns


@dataclass(eq=False)
class Group:
    """Requests of the same methods.

    `layers`: the plan of every layer; `order`: groups of a step are sorted by it; `states`: what methods remember, by
    place, of which each request has one and there are `places`. It goes with the last of them.
    """

    order: int
    methods: tuple[Method, ...]
    layers: dict[int, LayerPlan]
    members: int = 0
    broken: bool = False  # an error inside a method switched it off
    states: dict[Method, Any] = field(default_factory=dict)
    places: int = 0
    free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        needs = [m.active_needs() for m in self.methods]
        self.editing = [m for m in self.methods if Needs.ATTENTION_EDIT in m.active_needs()]
        self.adjusting = adjusting(self.methods)
        self.remembering = [m for m, n in zip(self.methods, needs, strict=True) if Needs.MEMORY in n]
        self.stream = next((m for m, n in zip(self.methods, needs, strict=True) if Needs.SECOND_STREAM in n), None)
        self.judge = next((m for m, n in zip(self.methods, needs, strict=True) if Needs.CANDIDATES in n), None)
        self.flagger = next((m for m, n in zip(self.methods, needs, strict=True) if Needs.TOKEN_FLAGS in n), None)

    def take(self) -> int:
        """A place for what is remembered of one more request."""
        if not self.free:
            self.free = list(range(2 * self.places, self.places - 1, -1))
            self.places = 2 * self.places + 1
        return self.free.pop()


@dataclass(eq=False)
class Asked:
    """One request with methods. `key`: vLLM's own id of it; `slot`: its place in the arrays of `Requests`; `place`: in
    what the methods of its group remember."""

    key: str
    slot: int
    group: Group
    prompt_length: int
    image_end: int
    place: int
    mark: str
    started: set[Method] = field(default_factory=set)  # those that have a state of it
    seed: int | None = None  # of what is drawn for it


class Requests:
    """Slots for requests with methods, and their arrays.

    Args:
        slots: requests that there is room for at first.  max_length: most tokens of one.  n_layers: decoder layers.
        image_token_id: what marks an image token in a prompt.  device: of the tensors.
    """

    def __init__(self, slots: int, max_length: int, n_layers: int, image_token_id: int, device: torch.device) -> None:
        self.n_layers = n_layers
        self.image_token_id = image_token_id
        self.by_key: dict[str, Asked] = {}
        self.by_slot: list[Asked | None] = [None] * slots
        self._free = list(range(slots - 1, -1, -1))
        self._groups: dict[tuple[Method, ...], Group] = {}
        self.by_order: dict[int, Group] = {}
        self._made = 0
        self.editing = 0  # how many have their attention edited
        self.changes = 0  # how often something about them has changed
        self.first = np.full(slots + 1, NOWHERE, dtype=np.int64)  # the last one: of rows without methods
        self.sure = np.full(slots + 1, NOWHERE, dtype=np.int64)  # from here on every edit concerns every row
        self.order = np.zeros(slots + 1, dtype=np.int64)
        self.last = np.full(slots + 1, NOWHERE, dtype=np.int64)  # position of the last prompt token
        self.streaming = np.zeros(slots + 1, dtype=bool)  # it has a second stream
        self.judging = np.zeros(slots + 1, dtype=bool)  # its candidates are judged
        self.deciding = np.zeros(slots + 1, dtype=bool)  # its logits are changed
        self.shaped = np.zeros(slots + 1, dtype=bool)  # vLLM puts something into its logits before methods see them
        self.image = torch.zeros(slots, max_length, dtype=torch.bool, device=device)
        self.image_end = torch.full((slots,), -1, dtype=torch.long, device=device)
        self.prompt_length = torch.zeros(slots, dtype=torch.long, device=device)

    def add(
        self, key: str, methods: tuple[Method, ...], prompt: Sequence[int] | np.ndarray,
        images: Iterable[tuple[int, int]] | None = None, mark: str = "",
    ) -> Asked:  # fmt: skip
        """The request of that id: as it is known, or a new one.

        Args:
            methods: with everything filled in.  prompt: its token ids, image placeholders expanded.
            images: where each picture begins, and its length; None: wherever image tokens are.
            mark: by which its frontend knows it.
        """
        known = self.by_key.get(key)
        if known is not None:
            return known
        if not self._free:
            self._grow()
        slot = self._free.pop()
        group = self._group(methods)
        image = image_mask(torch.from_numpy(np.asarray(prompt, dtype=np.int64)), self.image_token_id)
        if images is not None:
            image &= torch.stack([_within(begin, count, len(image)) for begin, count in images]).any(dim=0)
        end = int(image_ends(image[None]))
        asked = Asked(key, slot, group, len(image), end, group.take(), mark)
        self.by_key[key] = self.by_slot[slot] = asked
        self.editing += bool(group.editing)
        self.changes += 1
        self._lay_out(asked, image)
        if group.broken:
            failed([mark])
        return asked

    def _grow(self) -> None:
        """Twice as many slots: a request that is preempted keeps its own, however many take its row after it."""
        count = len(self.by_slot)
        self.by_slot += [None] * count
        self._free = list(range(2 * count - 1, count - 1, -1))
        arrays = {name: known for name, known in vars(self).items() if isinstance(known, np.ndarray)}
        for name, known in arrays.items():
            vars(self)[name] = np.concatenate([known, known[NOBODY:].repeat(count)])
        for name, none in (("image", 0), ("image_end", -1), ("prompt_length", 0)):
            held = vars(self)[name]
            vars(self)[name] = torch.cat([held, torch.full_like(held, none)])

    def _lay_out(self, asked: Asked, image: Tensor) -> None:
        slot, group = asked.slot, asked.group
        self.order[slot] = group.order
        edited = bool(group.editing) and asked.image_end >= 0 and not group.broken
        self.first[slot] = first_query(group.editing, asked.prompt_length, asked.image_end) if edited else NOWHERE
        self.sure[slot] = max(asked.prompt_length - 1, asked.image_end + 1)
        self.last[slot] = asked.prompt_length - 1
        self.streaming[slot] = group.stream is not None and not group.broken
        self.judging[slot] = group.judge is not None and not group.broken
        self.deciding[slot] = group.broken or bool(group.adjusting or group.judge)
        self.image[slot] = False
        self.image[slot, : len(image)] = image.to(self.image.device, non_blocking=True)
        self.image_end[slot] = asked.image_end
        self.prompt_length[slot] = asked.prompt_length

    def drop(self, keys: Iterable[str]) -> list[Asked]:
        """Forget requests that have ended; returns those that were known."""
        gone = [self.by_key.pop(key) for key in keys if key in self.by_key]
        self.changes += len(gone)
        for asked in gone:
            self.by_slot[asked.slot] = None
            self.first[asked.slot] = NOWHERE
            self.streaming[asked.slot] = self.judging[asked.slot] = self.deciding[asked.slot] = False
            self.shaped[asked.slot] = False
            self._free.append(asked.slot)
            self.editing -= bool(asked.group.editing)
            asked.group.free.append(asked.place)
            asked.group.members -= 1
            if not asked.group.members:
                self._groups.pop(asked.group.methods, None)
                self.by_order.pop(asked.group.order, None)
        return gone

    def _group(self, methods: tuple[Method, ...]) -> Group:
        group = self._groups.get(methods)
        if group is None:
            self._made += 1
            plans = plan_layers(methods, range(self.n_layers), self.n_layers)
            group = self._groups[methods] = self.by_order[self._made] = Group(self._made, methods, plans)
        group.members += 1
        return group

    def doubt(self, groups: Sequence[Group]) -> None:
        """The answers of these groups are from now on not surely those of their methods."""
        failed(asked.mark for asked in self.by_key.values() if asked.group in groups)

    def break_off(self, groups: Iterable[Group], error: BaseException) -> None:
        """Switch the methods of some groups off after an error inside them; their requests go on."""
        for group in groups:
            if group.broken:
                continue
            group.broken = True
            self.changes += 1
            self.doubt([group])
            names = "+".join(m.name for m in group.methods)
            log.error("%s failed, switched off for %d requests: %s", names, group.members, error, exc_info=error)
            for asked in self.by_key.values():
                if asked.group is group:
                    self.first[asked.slot] = NOWHERE
                    self.streaming[asked.slot] = self.judging[asked.slot] = False
                    self.deciding[asked.slot] = True  # what becomes of its answer is up to the server's `on_error`


def _within(begin: int, count: int, length: int) -> Tensor:
    at = torch.arange(length)
    return (at >= begin) & (at < begin + count)


@dataclass(frozen=True)
class Layout:
    """The requests of a step in its order. `slots`: (n,), `NOBODY` without methods; `starts`: (n + 1,) where
    the tokens of each begin; `lengths`: (n,) tokens it has after this step."""

    slots: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @property
    def past(self) -> np.ndarray:
        """(n,) tokens that were read before this step."""
        found: np.ndarray = self.lengths - (self.starts[1:] - self.starts[:-1])
        return found

    def follows(self, before: Layout) -> bool:
        """Whether it is that step once more, each request with one more token."""
        return (
            self.slots.tobytes() == before.slots.tobytes()  # ten times as fast as a comparison of few numbers
            and self.starts.tobytes() == before.starts.tobytes()
            and self.lengths.tobytes() == (before.lengths + 1).tobytes()
        )

    def of_streams(self, requests: Requests) -> list[tuple[Asked, int, int, int]]:
        """Every request with a second stream; where its tokens begin, how many it had before and has now."""
        found = []
        for i in requests.streaming[self.slots].nonzero()[0]:
            asked = requests.by_slot[int(self.slots[i])]
            if asked is not None:
                found.append((asked, int(self.starts[i]), int(self.past[i]), int(self.lengths[i])))
        return found


class Current:
    """Where a worker stands: its requests, and the step that runs. All that its parts see of it.

    Args:
        n_layers: decoder layers.
    """

    def __init__(self, vllm_config: Any, n_layers: int) -> None:
        self.vllm_config = vllm_config
        self.n_layers = n_layers
        self.ranks = int(vllm_config.parallel_config.tensor_parallel_size)
        self.layout: Layout | None = None  # of the step that runs
        self.own_logits: tuple[Layout | None, Tensor | None] = None, None  # of the model; the step whose they are
        self.positions: Tensor | None = None  # of the tokens of this step, as the model is given them
        self._blocks: tuple[Tensor, int] | None = None
        self._requests: Requests | None = None

    @property
    def requests(self) -> Requests:
        if self._requests is None:
            raise RuntimeError("grounddecode: the processor was not built before the first step")
        return self._requests

    @property
    def edits(self) -> bool:
        """Whether the attention of any request is edited."""
        return self._requests is not None and self._requests.editing > 0

    def block_rows(self, members: Sequence[Asked]) -> tuple[np.ndarray, Tensor, int]:
        """Where the cache blocks of some requests are told: rows of the table, the table, tokens a block."""
        if self._blocks is None or self.layout is None:
            raise RuntimeError("no step is running")
        row = {int(slot): i for i, slot in enumerate(self.layout.slots)}
        return np.array([row[one.slot] for one in members]), *self._blocks

    def layer_index(self, layer: Any) -> int:
        """Number of the decoder layer that an attention layer belongs to."""
        known = layer.__dict__.get("_grounddecode_layer")
        if known is None:
            parts = str(layer.layer_name).split(".")
            known = layer.__dict__["_grounddecode_layer"] = next(int(p) for p in parts if p.isdigit())
        return int(known)
