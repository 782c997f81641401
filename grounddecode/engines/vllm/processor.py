"""What the logits processor does in a worker: keeps requests in their rows, and adjusts their logits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from grounddecode.engines.choose import adjusted, chosen
from grounddecode.engines.state import begun, roomy, rows_of, stored
from grounddecode.engines.vllm.attention.plan import Newest
from grounddecode.engines.vllm.own_logits import among, is_shaped, own_logits, with_added
from grounddecode.engines.vllm.params import KEY, read_request
from grounddecode.engines.vllm.requests import NOBODY, Asked, Group, Layout, Requests
from grounddecode.engines.vllm.worker import Worker, worker_of

if TYPE_CHECKING:
    from grounddecode.engines.choose import Look, Note
    from grounddecode.method import Method
    from grounddecode.view import StepView

OTHERS = "vllm.logits_processors"  # packages that bring processors of their own, which vLLM runs unasked
_NOBODY: tuple[tuple[int, bytes], list[_Part]] = (-1, b""), []


class Processing:
    """Both of vLLM's interfaces of a logits processor, but for their constructors."""

    worker: Worker
    _settled = _NOBODY  # of a step whose requests are all behind their prompts; they stay so while it is the same ones

    def start(self, vllm_config: Any, given: Any, is_second: bool) -> None:
        """`given`: the device (runner V1), or the state that runner V2 shares (`all_token_ids`, ...)."""
        worker = worker_of(vllm_config)
        if worker is None:
            raise ValueError("grounddecode: the processor was built without the flag --logits-processors")
        self.worker = worker
        self._states: Any = given if is_second else None
        self._waiting: list[tuple[int, str, Any, Any]] = []
        others = len(vllm_config.model_config.logits_processors or ()) - 1 + len(entry_points(group=OTHERS))
        self._is_alone = others == 0
        device = given.device if is_second else given
        worker.open(device, int(given.max_num_reqs) if is_second else worker.max_requests)
        worker.announce("V2" if is_second else "V1")

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """At admission, in the frontend: ValueError with one sentence, which becomes HTTP 400."""
        read_request((sampling_params.extra_args or {}).get(KEY))

    # -- runner V1 -------------------------------------------------------------------------------------------------
    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Requests that came, went and moved. One that waits a step goes and comes again: its state is kept by id."""
        if batch_update is None:
            return
        worker, slots = self.worker, self.worker.row_slots
        for row in batch_update.removed:
            slots[row] = NOBODY
        for row, params, prompt, output in batch_update.added:
            methods = worker.methods_of(params)
            self._place(row, self._id_of(output) if methods else "", methods, prompt, params)
        for one, other, direction in batch_update.moved:
            if direction.name == "SWAP":
                slots[one], slots[other] = slots[other], slots[one]
            else:
                slots[one], slots[other] = NOBODY, slots[one]

    def _place(self, row: int, key: str, methods: tuple[Method, ...], prompt: Any, params: Any) -> None:
        """A request has come into this row; `params`: its sampling parameters."""
        self.worker.place(row, key, methods, prompt, params)
        asked = self.worker.asked(row)
        if asked is not None:
            self.worker.requests.shaped[asked.slot] = not self._is_alone or is_shaped(params)
            asked.seed = params.seed if params.seed is not None or params.temperature > 0 else 0

    def _id_of(self, output: list[int]) -> str:
        """vLLM's id of the request whose output this list is."""
        for key, request in self.worker.runner.requests.items():
            if request.output_token_ids is output:
                return str(key)
        raise RuntimeError("grounddecode: a request of the batch is not among the runner's")

    # -- runner V2 -------------------------------------------------------------------------------------------------
    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        worker = self.worker
        methods = worker.methods_of(sampling_params)
        worker.row_slots[req_idx] = NOBODY
        if not methods or worker.runner is None:
            return False
        self._waiting.append(
            (req_idx, str(worker.runner.req_states.index_to_req_id[req_idx]), methods, sampling_params)
        )
        return True

    def apply_staged_writes(self) -> None:
        """The prompts lie on the device by now: the one host read of a request."""
        for row, key, methods, params in self._waiting:
            length = int(self._states.prompt_len.np[row])
            prompt = self._states.all_token_ids.gpu[row, :length].cpu().numpy()
            self._place(row, key, methods, prompt, params)
        self._waiting.clear()

    # -- logits ----------------------------------------------------------------------------------------------------
    def adjust(self, logits: Tensor, context: Any) -> Tensor:
        """The logits of a step, changed for requests whose methods do."""
        worker, layout = self.worker, self.worker.layout
        if layout is None or not worker.requests.by_key:
            self._settled = _NOBODY
            return logits
        if context is None:
            slots = worker.row_slots[: len(logits)]
        else:
            slots = worker.row_slots[np.asarray(context.idx_mapping_np)]
        now = worker.requests.changes, slots.tobytes()
        if now == self._settled[0]:
            worker.count(slots)
            parts = self._settled[1]
        else:
            next_ = worker.requests.last[slots] < layout.lengths[: len(slots)]  # a prompt that goes on has none
            worker.count(slots[next_])
            parts = _parts(worker.requests, slots, next_)
            if (next_ | (slots == NOBODY)).all():
                self._settled = now, parts
        second = self._second_logits([one for part in parts for one in part.members if one.group.stream])
        for part in parts:
            given = logits if part.at is None else logits[part.at]
            try:
                changed = self._changed(
                    given, own_logits(worker, given, part.at) if part.shaped else given, part, second
                )
            except Exception as error:  # an error in a method is its requests' own
                worker.requests.break_off([part.group], error)
                changed = self._changed(given, given, part, second)
            if part.at is None:
                return changed.to(logits.dtype)
            logits[part.at] = changed.to(logits.dtype)
        return logits

    def _second_logits(self, asked: list[Asked]) -> _Second | None:
        """Next-token logits of all second streams of the step; one forward pass for all."""
        worker = self.worker
        for one in asked:
            try:
                if not one.group.broken:
                    worker.streams.begin(one)
            except Exception as error:
                worker.requests.break_off([one.group], error)
        asked = [one for one in asked if not one.group.broken]
        try:
            return _Second(asked, worker.streams.logits(asked)) if asked else None
        except Exception as error:
            worker.requests.break_off([one.group for one in asked], error)
            return None

    def _changed(self, given: Tensor, logits: Tensor, part: _Part, second: _Second | None) -> Tensor:
        """New logits (R, vocabulary) of requests of one group, from those given and the model's own."""
        group, worker, layout, members = part.group, self.worker, self.worker.layout, part.members
        if group.broken or layout is None:
            return self._ended(given) if worker.settings.on_error == "stop" else given
        view = part.newest.view(layout.lengths[part.rows])
        look, note = worker.watching()
        if group.judge is not None:
            return _judged(worker, group.judge, part, given, logits, view, layout, look, note)
        states = {m: _remembered(m, logits, view, part) for m in group.remembering}
        if group.stream is not None and second is not None:
            view = view.with_(second_logits=second.of(members)[:, : logits.shape[1]].float())
        if given is logits:
            return adjusted(logits, group.adjusting, view, states, note, look)
        changed = adjusted(among(logits, given), group.adjusting, view, states, note, look)
        return with_added(changed, logits, given)

    def _ended(self, logits: Tensor) -> Tensor:
        """Logits of answers that end here; where no configuration names an end token, they go on."""
        model = self.worker.vllm_config.model_config
        named = (getattr(config, "eos_token_id", None) for config in (model.hf_text_config, model.hf_config))
        ends = next((one for one in named if one is not None), None)
        if ends is None:
            return logits
        kept = torch.full_like(logits, -torch.inf)
        kept[:, ends if isinstance(ends, list) else [ends]] = 0.0
        return kept


class _Part:
    """Requests of one group whose next token is chosen in a step.

    Args:
        rows: (R,) theirs among the `count` rows of logits.

    Attributes:
        shaped: the logits that are given are not the model's own, for one of them at least.
        at: the same on the device; None: these are all rows of the step.
    """

    def __init__(self, requests: Requests, group: Group, members: list[Asked], rows: list[int], count: int) -> None:
        self.group, self.members, self.rows = group, members, np.array(rows)
        self.at = None if len(rows) == count else torch.tensor(rows, device=requests.image.device)
        self.newest = Newest(requests, members)
        self.shaped = bool(requests.shaped[[one.slot for one in members]].any())


def _parts(requests: Requests, slots: np.ndarray, next_: np.ndarray) -> list[_Part]:
    """Whose logits may be changed, by group. `next_`: (n,) whether a next token is chosen of the request in a slot."""
    there = (requests.deciding[slots] & next_).nonzero()[0].tolist()
    asked = {i: one for i in there if (one := requests.by_slot[int(slots[i])]) is not None}
    found = []
    for group in {id(one.group): one.group for one in asked.values()}.values():
        rows = [i for i, one in asked.items() if one.group is group]
        found.append(_Part(requests, group, [asked[i] for i in rows], rows, len(slots)))
    return found


class _Second:
    """Logits (R, vocabulary) of the second streams of some requests."""

    def __init__(self, asked: list[Asked], logits: Tensor) -> None:
        self._asked, self._logits = asked, logits

    def of(self, members: list[Asked]) -> Tensor:
        """Those of some of them."""
        if members == self._asked:
            return self._logits
        row = {one.key: i for i, one in enumerate(self._asked)}
        return self._logits[torch.tensor([row[one.key] for one in members], device=self._logits.device)]


def _judged(
    worker: Worker, method: Method, part: _Part, given: Tensor, logits: Tensor, view: StepView, layout: Layout,
    look: Look, note: Note | None,
) -> Tensor:  # fmt: skip
    """Logits (R, vocabulary) with the chosen token raised, which is one of the most probable that are given."""
    reads, members = method.reads(worker.n_layers), part.members
    lengths, at = layout.lengths[part.rows], layout.starts[part.rows + 1] - 1  # where each newest token is in the step
    saliency = None
    with torch.inference_mode(False):
        given, logits = given.clone(), logits.clone()
        if reads.saliency:
            if worker.saliency is None:
                raise RuntimeError(f"{method.name}: the server was not started for gradients")
            saliency = functools.partial(worker.saliency.of, members, logits, lengths, at, reads.saliency)
        draw = functools.partial(_drawn, members, lengths, device=logits.device)
        view = view.with_(state=_state(method, view, part))
        raised, judgement = chosen(given, method, reads, view, saliency, note, look, draw=draw)
        _keep(method, part, judgement.state)
        return raised


def _drawn(members: Sequence[Asked], lengths: np.ndarray, shape: torch.Size, device: torch.device) -> Tensor:
    """Random numbers (R, K) in [0, 1): by the seed of each request and how long it is, where it has one."""
    found = torch.rand(shape)
    for row, (one, length) in enumerate(zip(members, lengths.tolist(), strict=True)):
        if one.seed is not None:
            numbers = np.random.default_rng((one.seed % 2**64, length)).random(shape[1], dtype=np.float32)
            found[row] = torch.from_numpy(numbers)
    return found.to(device)


def _remembered(method: Method, logits: Tensor, view: StepView, part: _Part) -> Any:
    """What a method knows of these requests from now on; `logits` (R, vocabulary) are the model's own."""
    state = method.remember(logits.float(), view.with_(state=_state(method, view, part)))
    _keep(method, part, state)
    return state


def _state(method: Method, view: StepView, part: _Part) -> Any:
    """What the method remembers of these requests, one a row; of new ones what `start` gives."""
    group = part.group
    store = group.states[method] = roomy(group.states.get(method), group.places)
    state = None if store is None else rows_of(store, part.newest.places)
    fresh = [method not in one.started for one in part.members]
    if any(fresh):
        state = begun(state, torch.tensor(fresh), method.start(view))
    for one in part.members:
        one.started.add(method)
    return state


def _keep(method: Method, part: _Part, state: Any) -> None:
    group = part.group
    group.states[method] = stored(group.states.get(method), part.newest.places, state, group.places)
