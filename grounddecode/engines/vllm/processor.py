"""What the logits processor does in a worker: keeps requests in their rows, and adjusts their logits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from grounddecode.engines.choose import adjusted, chosen
from grounddecode.engines.state import begun, rows_of, stored
from grounddecode.engines.vllm.params import KEY, read_request
from grounddecode.engines.vllm.requests import Asked
from grounddecode.engines.vllm.worker import Worker, worker_of

if TYPE_CHECKING:
    from grounddecode.engines.choose import Look, Note
    from grounddecode.method import Method
    from grounddecode.view import StepView


class Processing:
    """Both of vLLM's interfaces of a logits processor, but for their constructors."""

    worker: Worker
    _undecided = -1, b""  # what requests there were in a step, all behind their prompts, whose logits nobody changed

    def start(self, vllm_config: Any, given: Any, is_second: bool) -> None:
        """`given`: the device (runner V1), or the state that runner V2 shares (`all_token_ids`, ...)."""
        worker = worker_of(vllm_config)
        if worker is None:
            raise ValueError("grounddecode: the processor was built without the flag --logits-processors")
        self.worker = worker
        self._states: Any = given if is_second else None
        self._waiting: list[tuple[int, str, Any]] = []
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
        nobody = worker.requests.nobody
        for row in batch_update.removed:
            slots[row] = nobody
        for row, params, prompt, output in batch_update.added:
            methods = worker.methods_of(params)
            worker.place(row, self._id_of(output) if methods else "", methods, prompt)
        for one, other, direction in batch_update.moved:
            if direction.name == "SWAP":
                slots[one], slots[other] = slots[other], slots[one]
            else:
                slots[one], slots[other] = nobody, slots[one]

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
        worker.row_slots[req_idx] = worker.requests.nobody
        if not methods or worker.runner is None:
            return False
        self._waiting.append((req_idx, str(worker.runner.req_states.index_to_req_id[req_idx]), methods))
        return True

    def apply_staged_writes(self) -> None:
        """The prompts lie on the device by now: the one host read of a request."""
        for row, key, methods in self._waiting:
            length = int(self._states.prompt_len.np[row])
            prompt = self._states.all_token_ids.gpu[row, :length].cpu().numpy()
            self.worker.place(row, key, methods, prompt)
        self._waiting.clear()

    # -- logits ----------------------------------------------------------------------------------------------------
    def adjust(self, logits: Tensor, context: Any) -> Tensor:
        """The logits of a step, changed for requests whose methods do."""
        worker, layout = self.worker, self.worker.layout
        if layout is None or not worker.requests.by_key:
            return logits
        if context is None:
            slots = worker.row_slots[: len(logits)]
        else:
            slots = worker.row_slots[np.asarray(context.idx_mapping_np)]
        now = worker.requests.changes, slots.tobytes()
        if now == self._undecided:
            worker.count(slots)
            return logits
        next_ = worker.requests.last[slots] < layout.lengths[: len(slots)]  # a prompt that goes on has no next token
        worker.count(slots[next_])
        there = (worker.requests.deciding[slots] & next_).nonzero()[0]
        asked = {int(i): one for i in there if (one := worker.requests.by_slot[int(slots[i])]) is not None}
        if not asked:
            if (next_ | (slots == worker.requests.nobody)).all():
                self._undecided = now
            return logits
        second = self._second_logits([one for one in asked.values() if one.group.stream and not one.group.broken])
        for group in {id(one.group): one.group for one in asked.values()}.values():
            index = [i for i, one in asked.items() if one.group is group]
            at = torch.tensor(index, device=logits.device)
            try:
                changed = self._changed(logits[at], [asked[i] for i in index], np.array(index), second)
            except Exception as error:  # an error in a method is its requests' own
                worker.requests.break_off([group], error)
                changed = self._changed(logits[at], [asked[i] for i in index], np.array(index), second)
            logits[at] = changed.to(logits.dtype)
        return logits

    def _second_logits(self, asked: list[Asked]) -> dict[str, Tensor]:
        """Next-token logits (vocabulary,) of all second streams of the step, by request; one forward pass for all."""
        worker = self.worker
        for one in asked:
            try:
                worker.streams.begin(one)
            except Exception as error:
                worker.requests.break_off([one.group], error)
        asked = [one for one in asked if not one.group.broken]
        try:
            return dict(zip((one.key for one in asked), worker.streams.logits(asked), strict=True)) if asked else {}
        except Exception as error:
            worker.requests.break_off([one.group for one in asked], error)
            return {}

    def _changed(self, logits: Tensor, members: Sequence[Asked], rows: np.ndarray, second: dict[str, Tensor]) -> Tensor:
        """New logits (R, vocabulary) of requests of one group. `rows`: theirs in the step."""
        group, worker, layout = members[0].group, self.worker, self.worker.layout
        if group.broken or layout is None:
            return self._ended(logits) if worker.settings.on_error == "stop" else logits
        lengths = layout.lengths[rows]
        look, note = worker.watching()
        if group.judge is not None:
            ends = layout.starts[rows + 1] - 1
            return _judged(worker, group.judge, members, logits, lengths, ends, look, note)
        view = worker.last_view(members, lengths)
        states = {m: _remembered(worker, m, logits, view, members) for m in group.remembering}
        if group.stream is not None:
            others = torch.stack([second[one.key] for one in members])
            view = view.with_(second_logits=others[:, : logits.shape[1]].float())
        return adjusted(logits, group.adjusting, view, states, note, look)

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


def _judged(
    worker: Worker, method: Method, members: Sequence[Asked], logits: Tensor, lengths: np.ndarray, at: np.ndarray,
    look: Look, note: Note | None,
) -> Tensor:  # fmt: skip
    """Logits (R, vocabulary) with the chosen token raised. `at`: index of each newest token in the step."""
    reads = method.reads(worker.n_layers)
    view, saliency = worker.last_view(members, lengths), None
    with torch.inference_mode(False):
        logits = logits.clone()
        if reads.saliency:
            if worker.saliency is None:
                raise RuntimeError(f"{method.name}: the server was not started for gradients")
            saliency = functools.partial(worker.saliency.of, members, logits, lengths, at, reads.saliency)
        view = view.with_(state=_state(method, view, members))
        raised, judgement = chosen(logits, method, reads, view, saliency, note, look)
        _keep(worker, method, view, members, judgement.state)
        return raised


def _remembered(worker: Worker, method: Method, logits: Tensor, view: StepView, members: Sequence[Asked]) -> Any:
    """What a method knows of these requests from now on; `logits` (R, vocabulary) are the model's own."""
    state = method.remember(logits.float(), view.with_(state=_state(method, view, members)))
    _keep(worker, method, view, members, state)
    return state


def _state(method: Method, view: StepView, members: Sequence[Asked]) -> Any:
    """What the method remembers of these requests, one a row; of new ones what `start` gives."""
    store = members[0].group.states.get(method)
    state = None if store is None else rows_of(store, view.slots)
    fresh = [method not in one.started for one in members]
    if any(fresh):
        state = begun(state, torch.tensor(fresh), method.start(view))
    for one in members:
        one.started.add(method)
    return state


def _keep(worker: Worker, method: Method, view: StepView, members: Sequence[Asked], state: Any) -> None:
    states = members[0].group.states
    states[method] = stored(states.get(method), view.slots, state, len(worker.requests.by_slot))
