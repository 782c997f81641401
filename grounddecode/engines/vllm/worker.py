"""Worker: what the processor, the attention backends and the hooks of one worker process share."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from grounddecode.engines.choose import showing
from grounddecode.engines.plan import LayerPlan
from grounddecode.engines.rows import edited_rows, image_row
from grounddecode.engines.vllm.attention.cache import READERS, Reader
from grounddecode.engines.vllm.attention.plan import Plan, plan_of
from grounddecode.engines.vllm.attention.step import Part, Rows, groups_of
from grounddecode.engines.vllm.observer import Observer
from grounddecode.engines.vllm.params import IMAGES, KEY, MARK, at_start, is_asked_for, refused, restored, settings_of
from grounddecode.engines.vllm.requests import NOBODY, Asked, Current, Layout, Requests
from grounddecode.engines.vllm.saliency import Saliency
from grounddecode.engines.vllm.stream.second import Streams
from grounddecode.engines.vllm.tally import PLACE, Tally
from grounddecode.images.layout import image_token_id
from grounddecode.method import Method, Needs
from grounddecode.view import StepView

if TYPE_CHECKING:
    from grounddecode.engines.choose import Look, Note
    from grounddecode.trace import Recorder

log = logging.getLogger("vllm.grounddecode")  # below vLLM's own, whose handler shows it
_workers: dict[int, Worker] = {}


def worker_of(vllm_config: Any) -> Worker | None:
    """The worker of this engine in this process; None where the flag was not given."""
    known = _workers.get(id(vllm_config))
    if known is None and is_asked_for(vllm_config.model_config):
        known = _workers[id(vllm_config)] = Worker(vllm_config)
    return known


class Worker(Current):
    """Raises ValueError for a server on which no method can work."""

    def __init__(self, vllm_config: Any) -> None:
        reason = refused(vllm_config)
        if reason is not None:
            raise ValueError(reason)
        model = vllm_config.model_config
        super().__init__(vllm_config, int(model.hf_text_config.num_hidden_layers))
        self.settings = settings_of(vllm_config)
        self.knowledge = self.settings.knowledge(model.hf_config)
        self.serves = tuple(m.calibrated(self.knowledge) for m in self.settings.serves)
        self.max_requests = int(vllm_config.scheduler_config.max_num_seqs)
        self.max_length = int(model.max_model_len)
        self.runner: Any = None  # set by the first step
        self.reader: Reader = READERS["CPU_ATTN"]
        self.kind = self._runner_name = ""  # the model's attention backend, and which runner it is
        self.rank = 0
        self.streams = Streams(self, self.settings.streams or self.max_requests)
        self.observer: Observer | None = None
        self.saliency: Saliency | None = None
        self.trace: Recorder | None = None  # of an engine in this process, for studies: what each step did
        self._watched = 0  # how often it was told of a step
        self._counted: tuple[tuple[int, bytes], list[tuple[list[str], int]]] = (-1, b""), []
        self._methods: dict[str, tuple[Method, ...]] = {}
        self.row_slots = np.empty(0, dtype=np.int64)  # V1: by row of the batch; V2: by vLLM's own slot

    def open(self, device: Any, rows: int) -> None:
        """Called by the processor: make room for requests. `rows`: how many the runner can have at a time."""
        token = image_token_id(self.vllm_config.model_config.hf_config)
        self._requests = Requests(rows, self.max_length, self.n_layers, int(token or 0), device)
        self.row_slots = np.full(rows, NOBODY, dtype=np.int64)
        self._counted = (-1, b""), []

    def attach(self, model: Any) -> None:
        """Called once the model is loaded. Raises ValueError for attention layers whose rows cannot be made here."""
        from vllm.distributed import get_tensor_model_parallel_rank
        from vllm.model_executor.layers.attention import Attention

        self.rank = get_tensor_model_parallel_rank()
        context = self.vllm_config.compilation_config.static_forward_context
        layers = {name: layer for name, layer in context.items() if isinstance(layer, Attention)}
        for name, layer in layers.items():
            kind = layer.attn_backend.get_name()
            if kind not in READERS or not hasattr(layer.impl, "edited"):
                raise ValueError(
                    f"grounddecode: the attention backend {kind} cannot be read, choose one of {', '.join(READERS)}"
                )
            odd = next((x for x in ("alibi_slopes", "sinks") if getattr(layer.impl, x, None) is not None), None)
            if odd is not None:
                raise ValueError(f"grounddecode: {name} has {odd}, which no method knows, use another model")
            self.reader, self.kind, layer.impl.worker = READERS[kind], kind, self
        flagging = [m for m in self.serves if Needs.TOKEN_FLAGS in m.active_needs()]
        targets = [(wanted[0], m.name) for m in self.serves if (wanted := m.reads(self.n_layers).saliency)]
        if targets:
            lowest, name = min(targets)
            self.saliency = Saliency(self, self.reader, layers, model, lowest, name)
            self.observer = Observer(self, self.streams, flagging, layers, model, lowest, self.saliency.keep)
        elif flagging:
            self.observer = Observer(self, self.streams, flagging, layers, model)
        self.streams.attach(model)
        self.announce()

    def announce(self, runner: str = "") -> None:
        """One line: what this server can do. Told once both are known, the model's attention and its runner."""
        self._runner_name = runner or self._runner_name
        if self._runner_name and self.kind:
            log.info("%s", at_start(self.vllm_config, self.settings, self.kind, self._runner_name))

    # -- requests --------------------------------------------------------------------------------------------------
    def methods_of(self, params: Any) -> tuple[Method, ...]:
        """The methods that a request's parameters ask for, with what is known of the checkpoint filled in."""
        text = (getattr(params, "extra_args", None) or {}).get(KEY)
        if text is None:
            return ()
        if text not in self._methods:
            if len(self._methods) > 1024:
                self._methods.clear()
            self._methods[text] = tuple(m.calibrated(self.knowledge) for m in restored(text))
        return self._methods[text]

    def place(
        self, row: int, key: str, methods: tuple[Method, ...], prompt: Sequence[int] | np.ndarray | None, params: Any
    ) -> None:
        """A request has come into this row of the batch."""
        if not methods or prompt is None:
            self.row_slots[row] = NOBODY
            return
        given = params.extra_args
        self.row_slots[row] = self.requests.add(key, methods, prompt, given.get(IMAGES), given.get(MARK, "")).slot

    def asked(self, row: int) -> Asked | None:
        """The request with methods in this row, if it is one."""
        slot = int(self.row_slots[row])
        return None if slot == NOBODY else self.requests.by_slot[slot]

    def finished(self, keys: Sequence[str]) -> None:
        """Requests that have ended, however they did."""
        if "tally" in vars(self):
            self.tally.settle(at_once=True)
        for asked in self.requests.drop(keys):
            self.streams.drop(asked)
            self.row_slots[self.row_slots == asked.slot] = NOBODY

    def preempted(self, keys: Sequence[str]) -> None:
        """Requests that will be read again from their first token: only what cannot be read again is kept."""
        self.requests.changes += 1
        for asked in (self.requests.by_key[key] for key in keys if key in self.requests.by_key):
            self.streams.drop(asked)

    # -- what was done ---------------------------------------------------------------------------------------------
    @cached_property
    def tally(self) -> Tally:
        """Made when there is something to count: the ranks are known by then."""
        return Tally(os.environ.get(PLACE) if self.rank == 0 else None)

    def count(self, slots: np.ndarray) -> None:
        """Once a step: the requests of these slots have their next token chosen."""
        same = self.requests.changes, slots.tobytes()
        if same != self._counted[0]:
            found = []
            for order, many in Counter(self.requests.order[slots].tolist()).items():
                if (group := self.requests.by_order.get(order)) is not None and not group.broken:
                    found.append(([m.name for m in group.methods], many))
            self._counted = same, found
        for names, many in self._counted[1]:
            self.tally.tokens(names, many)
        self.tally.settle()

    def watching(self) -> tuple[Look, Note | None]:
        """What is shown the logits of one group of requests in a step, and what is told of it."""
        self._watched += 1
        number, trace, counting = self._watched, self.trace, self.tally.look()
        if trace is None:
            return counting, None
        show = showing(trace, number)

        def look(whose: str, logits: Tensor) -> None:
            counting(whose, logits)
            if show is not None:
                show(whose, logits)

        def note(method: Method, what: str, value: Tensor) -> None:
            trace.record(number, method.name, what, value.float())

        return look, note

    # -- attention -------------------------------------------------------------------------------------------------
    def plan(self, common: Any, block_size: int, last: Plan | None = None) -> Plan | None:
        """The rows of a step that methods have to do with, from the metadata that all its layers share.

        `last`: what was said of the step before to the same layers.
        """
        count = int(common.num_reqs)
        rows = slice(count) if common.req_idx is None else np.asarray(common.req_idx)[:count]
        starts = common.query_start_loc_cpu.numpy()[: count + 1].astype(np.int64)
        lengths = common.seq_lens_cpu_upper_bound.numpy()[:count].astype(np.int64)
        blocks = common.block_table_tensor
        self._blocks = blocks, block_size
        self.layout = Layout(self.row_slots[rows].copy(), starts, lengths)
        return plan_of(self.requests, self.layout, blocks, block_size, last)

    def attend(
        self,
        impl: Any,
        layer: Any,
        query: Tensor,
        cache: Tensor,
        output: Tensor,
        plan: Plan,
        base: Callable[[], Tensor],
    ) -> Tensor:
        """The attention of one layer: `output` with the concerned rows edited."""
        index = self.layer_index(layer)
        acting = [rows for given in plan.rows if (rows := given.of_layer(index)) is not None]
        is_whole = len(acting) == 1 and acting[0].whole
        if not is_whole:
            base()
        for rows in acting:
            try:
                rows.into_step(impl.edited(query, cache, rows, index, self), output)
            except Exception as error:  # an error in a method must not take the engine with it
                self.break_off([rows], error)
                self.requests.doubt(groups_of(plan.rows))  # the step goes on without any edit
                plan.rows = []
                return base()
        self._record(impl, query, cache, plan, index)
        return output

    def _record(self, impl: Any, query: Tensor, cache: Tensor, plan: Plan, layer: int) -> None:
        """Tell second streams how their last prompt row attends to the image."""
        for rows in plan.recorded:
            try:
                weights = impl.weights(query, cache, rows, layer, self)
                image = torch.cat([rows.view(part).image for part in rows.parts])
                means = self.mean_of_ranks(image_row(weights[:, :, 0], image))
                asked = [self.requests.by_slot[slot] for slot in rows.slots.tolist()]
                for one, mean in zip(asked, means, strict=True):
                    if one is not None:
                        self.streams.record(one, layer, mean)
            except Exception as error:
                self.break_off([rows], error)
                plan.recorded = []

    def edit(self, scores: Tensor, rows: Rows, part: Part, layer: int) -> Tensor:
        """Weights of the scores (B, H, count, T) of one part of the rows, for this rank's heads."""
        plan = part.group.layers[layer]
        # Gains are in the scores already, see `EditedRows.bias_of`.
        if not plan.edits or plan.gains_only or part.group.broken:
            return scores.softmax(dim=-1)
        try:
            view = rows.view(part, self.flags_of(rows, part, layer))
            if self.ranks > 1 and any(m.across_heads for m in plan.edits):
                return self._edit_all_heads(scores, view, plan)
            return edited_rows(scores, view, plan)
        except Exception as error:  # is its requests' own: neither the engine's nor their neighbours'
            self.requests.break_off([part.group], error)
            return scores.softmax(dim=-1)

    def _edit_all_heads(self, scores: Tensor, view: StepView, plan: LayerPlan) -> Tensor:
        """Where heads are compared, every rank edits all of them and keeps its own."""
        from vllm.distributed import tensor_model_parallel_all_gather

        heads = scores.shape[1]
        every = edited_rows(tensor_model_parallel_all_gather(scores.contiguous(), dim=1), view, plan)
        return every[:, self.rank * heads : (self.rank + 1) * heads]

    def mean_of_ranks(self, values: Tensor) -> Tensor:
        """The mean over all heads, from each rank's mean over its own."""
        if self.ranks == 1:
            return values
        from vllm.distributed import tensor_model_parallel_all_reduce

        total: Tensor = tensor_model_parallel_all_reduce(values.contiguous())
        return total / self.ranks

    def flags_of(self, rows: Rows, part: Part, layer: int) -> Tensor | None:
        """(B, T) bool, what was noted of the keys of these rows for the methods of one part."""
        flagger, observer = part.group.flagger, self.observer
        if flagger is None or observer is None:
            return None
        kept = part.group.layers[layer].kept
        index = kept.get("flags")
        if index is None:
            index = kept["flags"] = observer.index(flagger)
        if index is None:
            raise RuntimeError(f"{flagger.name}: the server keeps no flags for these hyper-parameters")
        if rows.blocks is None:
            return self.streams.cache.flags(index, observer.names[layer], rows)
        return observer.flags(index, layer, rows)

    def break_off(self, plan: Sequence[Rows], error: Exception) -> None:
        self.requests.break_off(groups_of(plan), error)
