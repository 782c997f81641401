"""Worker: what the processor, the attention backends and the hooks of one worker process share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from grounddecode.engines.plan import LayerPlan
from grounddecode.engines.rows import edited_rows
from grounddecode.engines.vllm.cache import READERS, Reader
from grounddecode.engines.vllm.params import KEY, Settings, restored
from grounddecode.engines.vllm.requests import Asked, Requests
from grounddecode.engines.vllm.step import Rows, groups_of, plan_rows
from grounddecode.layout import image_token_id
from grounddecode.method import Method, Needs

if TYPE_CHECKING:
    from grounddecode.view import StepView

FLAG = "logits_processors.vllm:GroundDecode"
log = logging.getLogger("vllm.grounddecode")  # below vLLM's own, whose handler shows it
_workers: dict[int, Worker] = {}


@dataclass
class Plan:
    """The edited rows of one step of one group of layers. `tokens`: how many there are in the step."""

    worker: Worker
    rows: list[Rows]


def is_asked_for(model_config: Any) -> bool:
    """Whether a server was started with the flag."""
    given = getattr(model_config, "logits_processors", None) or ()
    names = [x if isinstance(x, str) else f"{x.__module__}:{x.__qualname__}" for x in given]
    return FLAG in names


def settings_of(vllm_config: Any) -> Settings:
    """What the server was started for. Raises ValueError for what is no setting."""
    additional = getattr(vllm_config, "additional_config", None)
    return Settings.read(additional.get(KEY) if isinstance(additional, dict) else None)


def worker_of(vllm_config: Any) -> Worker | None:
    """The worker of this engine in this process; None where the flag was not given."""
    known = _workers.get(id(vllm_config))
    if known is None and is_asked_for(vllm_config.model_config):
        known = _workers[id(vllm_config)] = Worker(vllm_config)
    return known


def refusal(vllm_config: Any) -> str | None:
    """Why no method can work on this server, in one sentence; None if they can."""
    model, parallel, cache = vllm_config.model_config, vllm_config.parallel_config, vllm_config.cache_config
    reasons = {
        "a model with latent attention (MLA) keeps no keys and values to edit": bool(getattr(model, "use_mla", False)),
        "an encoder-decoder has its image outside the sequence": bool(getattr(model, "is_encoder_decoder", False)),
        "speculative decoding checks tokens that no method has seen, leave --speculative-config out": (
            vllm_config.speculative_config is not None
        ),
        "pipeline parallelism leaves the first stages without the requests' methods, use --tensor-parallel-size": (
            parallel.pipeline_parallel_size > 1
        ),
        "context parallelism gives a worker a part of the sequence only, use --tensor-parallel-size": (
            getattr(parallel, "decode_context_parallel_size", 1) > 1
            or getattr(parallel, "prefill_context_parallel_size", 1) > 1
        ),
        "a quantised cache cannot be read back, use --kv-cache-dtype auto": str(cache.cache_dtype)
        not in ("auto", "float16", "bfloat16", "float32"),
        "a cache that is moved between servers comes without what methods remember, leave --kv-transfer-config out": (
            vllm_config.kv_transfer_config is not None
        ),
        "the configuration of this model names no image token, give a vision-language model": (
            image_token_id(model.hf_config) is None
        ),
    }
    return next((f"grounddecode: {reason}" for reason, met in reasons.items() if met), None)


class Worker:
    """Raises ValueError for a server on which no method can work."""

    def __init__(self, vllm_config: Any) -> None:
        reason = refusal(vllm_config)
        if reason is not None:
            raise ValueError(reason)
        self.vllm_config = vllm_config
        self.settings = settings_of(vllm_config)
        model = vllm_config.model_config
        self.knowledge = self.settings.knowledge(model.hf_config)
        self.serves = tuple(m.calibrated(self.knowledge) for m in self.settings.serves)
        self.n_layers = int(model.hf_text_config.num_hidden_layers)
        self.max_requests = int(vllm_config.scheduler_config.max_num_seqs)
        self.max_length = int(model.max_model_len)
        self.runner: Any = None  # set by the first step
        self.reader: Reader = READERS["CPU_ATTN"]
        self.flags: dict[tuple[Method, int], Tensor] = {}  # by flagging method and layer: one a slot of the cache
        self._requests: Requests | None = None
        self._methods: dict[str, tuple[Method, ...]] = {}
        self.row_slots = np.empty(0, dtype=np.int64)  # V1: by row of the batch; V2: by vLLM's own slot

    @property
    def requests(self) -> Requests:
        if self._requests is None:
            raise RuntimeError("grounddecode: the processor was not built before the first step")
        return self._requests

    def open(self, device: Any, rows: int) -> None:
        """Called by the processor: make room for requests. `rows`: how many the runner can have at a time."""
        token = image_token_id(self.vllm_config.model_config.hf_config)
        # Twice: one that is preempted keeps its place while another takes its row.
        self._requests = Requests(2 * rows, self.max_length, self.n_layers, int(token or 0), device)
        self.row_slots = np.full(rows, self._requests.nobody, dtype=np.int64)

    def attach(self, model: Any) -> None:
        """Called once the model is loaded: find its attention layers. Raises ValueError for layers no row can be made of."""
        from vllm.model_executor.layers.attention import Attention

        context = self.vllm_config.compilation_config.static_forward_context
        layers = {name: layer for name, layer in context.items() if isinstance(layer, Attention)}
        for name, layer in layers.items():
            kind = layer.attn_backend.get_name()
            if kind not in READERS or not hasattr(layer.impl, "edited"):
                raise ValueError(f"grounddecode: the attention backend {kind} cannot be read, choose one of {', '.join(READERS)}")
            odd = next((x for x in ("alibi_slopes", "sinks") if getattr(layer.impl, x, None) is not None), None)
            if odd is not None:
                raise ValueError(f"grounddecode: {name} has {odd}, which no method knows, use another model")
            self.reader, self.kind = READERS[kind], kind

    def announce(self, runner: str) -> None:
        """One line: what this server can do."""
        mode = self.vllm_config.compilation_config.cudagraph_mode
        serves = ", ".join(m.name for m in self.serves) or "nothing more"
        log.info(
            "grounddecode: runner %s, compilation %s, graphs %s; started for %s; default %s; an error in a method: %s",
            runner, self.vllm_config.compilation_config.mode.name, getattr(mode, "name", mode), serves,
            "+".join(m.name for m in self.settings.default) or "none", self.settings.on_error,
        )  # fmt: skip

    # -- logits ----------------------------------------------------------------------------------------------------
    def adjust(self, logits: Tensor, rows: np.ndarray) -> Tensor:
        """The logits of a step, those of requests whose methods adjust them changed. `rows`: where each row is asked for."""
        return logits

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

    def place(self, row: int, key: str, methods: tuple[Method, ...], prompt: Sequence[int] | np.ndarray | None) -> None:
        """A request has come into this row of the batch."""
        if not methods or prompt is None:
            self.row_slots[row] = self.requests.nobody
            return
        self.row_slots[row] = self.requests.add(key, methods, prompt).slot

    def asked(self, row: int) -> Asked | None:
        """The request with methods in this row, if it is one."""
        slot = int(self.row_slots[row])
        return None if slot == self.requests.nobody else self.requests.by_slot[slot]

    def finished(self, keys: Sequence[str]) -> None:
        """Requests that have ended, however they did."""
        for asked in self.requests.drop(keys):
            self.row_slots[self.row_slots == asked.slot] = self.requests.nobody

    # -- attention -------------------------------------------------------------------------------------------------
    def plan(self, common: Any, block_size: int) -> Plan | None:
        """The edited rows of a step, from the metadata that all its layers share."""
        count = int(common.num_reqs)
        rows = np.arange(count) if common.req_idx is None else np.asarray(common.req_idx)[:count]
        starts = common.query_start_loc_cpu.numpy()[: count + 1].astype(np.int64)
        lengths = common.seq_lens_cpu_upper_bound.numpy()[:count].astype(np.int64)
        found = plan_rows(self.requests, self.row_slots[rows], starts, lengths, common.block_table_tensor, block_size)
        return Plan(self, found) if found else None

    def attend(
        self, impl: Any, layer: Any, query: Tensor, cache: Tensor, output: Tensor, plan: Plan, base: Callable[[], Tensor]
    ) -> Tensor:
        """The attention of one layer: `output` with the concerned rows edited."""
        index = layer_index(layer)
        acting = [rows for given in plan.rows if (rows := given.of_layer(index)) is not None]
        if not acting:
            return base()
        is_whole = len(acting) == 1 and acting[0].whole
        if not is_whole:
            base()
        for rows in acting:
            try:
                edited = impl.edited(query, cache, rows, index, self).to(output.dtype)
                tokens = rows.tokens if rows.real is None else rows.tokens[rows.real]
                output.index_copy_(0, tokens, edited if rows.real is None else edited[rows.real])
            except Exception as error:  # an error in a method must not take the engine with it
                self.requests.break_off(groups_of([rows]), error)
                plan.rows = []
                return base()
        return output

    def edit(self, scores: Tensor, view: Callable[[], StepView], plan: LayerPlan) -> Tensor:
        """Weights of the scores (B, H, count, T) of this rank's heads."""
        return edited_rows(scores, view(), plan)

    def flags_of(self, rows: Rows, layer: int) -> Tensor | None:
        """(B, T) bool, what the observer noted of these rows' keys; None where no method asked for it."""
        flagger = next((p.group.flagger for p in rows.parts if p.group.flagger is not None), None)
        if flagger is None:
            return None
        noted = next((f for (method, at), f in self.flags.items() if at == layer and method.name == flagger.name), None)
        if noted is None:
            return None
        return noted.view(-1, rows.block_size)[rows.blocks.long()].view(len(rows.blocks), -1)


def layer_index(layer: Any) -> int:
    """Number of the decoder layer that an attention layer belongs to."""
    known = layer.__dict__.get("_grounddecode_layer")
    if known is None:
        name = str(layer.layer_name)
        known = layer.__dict__["_grounddecode_layer"] = next(int(p) for p in name.split(".") if p.isdigit())
    return int(known)


def edits(methods: Sequence[Method]) -> bool:
    """Whether any of the methods changes what later layers and tokens see, so that its cache is its own."""
    return any(Needs.ATTENTION_EDIT in m.active_needs() for m in methods)
