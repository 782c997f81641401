"""The platform's attention backends with edited rows: subclasses that vLLM chooses in their parents' place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.rows import finite, log_gains
from grounddecode.engines.vllm.attention.cache import Reader
from grounddecode.engines.vllm.stream.passes import Pass
from grounddecode.engines.vllm.worker import Worker, worker_of

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.plan import Plan
    from grounddecode.engines.vllm.attention.step import Rows

PARENTS = {
    "CPU_ATTN": "vllm.v1.attention.backends.cpu_attn:CPUAttentionBackend",
    "FLASH_ATTN": "vllm.v1.attention.backends.flash_attn:FlashAttentionBackend",
    "TRITON_ATTN": "vllm.v1.attention.backends.triton_attn:TritonAttentionBackend",
    "FLEX_ATTENTION": "vllm.v1.attention.backends.flex_attention:FlexAttentionBackend",
}
_PREFIX = "Grounded_"


def register() -> None:
    """Put the subclasses in their parents' place in vLLM's table."""
    from vllm.v1.attention import selector
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    for name in PARENTS:
        register_backend(AttentionBackendEnum[name], f"{__name__}.{_PREFIX}{name}")
    forget = getattr(selector._cached_get_attn_backend, "cache_clear", None)
    if forget is not None:  # an engine without the flag may have been built in this process before
        forget()


def __getattr__(name: str) -> Any:
    """`Grounded_CPU_ATTN` and so on, made when vLLM asks: the parents of other platforms may not import here."""
    parent = PARENTS.get(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else None
    if parent is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made = _grounded(name, parent)
    return made


def _grounded(name: str, path: str) -> type:
    module, _, attribute = path.partition(":")
    parent = getattr(import_module(module), attribute)
    builder = type(f"{name}_Builder", (PlanBuilder, parent.get_builder_cls()), {"__module__": __name__})
    own = parent.get_impl_cls()
    impl = type(f"{name}_Impl", (EditedRows, own), {"__module__": __name__, "platform_forward": own.forward})
    hooks = {"get_impl_cls": staticmethod(lambda: impl), "get_builder_cls": staticmethod(lambda: builder)}
    return type(name, (parent,), {"__module__": __name__, **hooks})


def _behind(mixin: type, given: Any) -> Any:
    """What vLLM's own class, which stands behind a mixin in the order of bases, has for this object or class."""
    return super(mixin, given)


class PlanBuilder:
    """Metadata builder that says once a step, before the forward pass, which rows are edited."""

    vllm_config: Any
    kv_cache_spec: Any
    _last: Plan | None = None

    @classmethod
    def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> Any:
        """A whole graph would freeze the unedited path: graphs lie between attention calls where methods may run."""
        from vllm.v1.attention.backend import AttentionCGSupport

        if worker_of(vllm_config) is not None:
            return AttentionCGSupport.NEVER
        return _behind(PlanBuilder, cls).get_cudagraph_support(vllm_config, kv_cache_spec)

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        metadata = _behind(PlanBuilder, self).build(common_prefix_len, common_attn_metadata, fast_build)
        worker = worker_of(self.vllm_config)
        if worker is not None and worker.requests.by_key:
            self._last = worker.plan(common_attn_metadata, self.kv_cache_spec.block_size, self._last)
            metadata.grounded, metadata.grounded_by = self._last, worker
        return metadata


class EditedRows:
    """Attention of one layer: the base kernel, then the rows that a method edits; without it where all rows are."""

    platform_forward: Callable[..., Tensor]  # the platform's attention
    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    sliding_window: Any
    logits_soft_cap: float | None
    worker: Worker | None = None  # set once the model is loaded

    def forward(
        self, layer: Any, query: Tensor, key: Tensor | None, value: Tensor | None, kv_cache: Tensor,
        attn_metadata: Any, output: Tensor, output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        plan = getattr(attn_metadata, "grounded", None)
        if plan is None:  # all that a step costs in which nobody uses a method
            return self.platform_forward(
                layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
            )
        if isinstance(plan, Pass):
            return plan.attend(self, layer, query, key, value, output)
        worker: Worker = attn_metadata.grounded_by
        aboard = worker.streams.running
        if aboard is not None:
            first = aboard.aside(self, layer, query, key, value, output)
            query, output = query[:first], output[:first]
            key, value = (None, None) if key is None or value is None else (key[:first], value[:first])

        def base() -> Tensor:
            return self.platform_forward(
                layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
            )

        return worker.attend(self, layer, query, kv_cache, output, plan, base)

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """vLLM's cache takes what has a place in it; rows behind that are those of second streams.

        Its blocks come to others, and what is read of one is read whole, so what edits lead to is finite.
        """
        count = len(slot_mapping)
        if len(key) > count:
            key, value = key[:count], value[:count]
        if self.worker is not None and self.worker.edits:
            key, value = finite(key), finite(value)
        _behind(EditedRows, self).do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)

    def edited(self, query: Tensor, cache: Any, rows: Rows, layer: int, worker: Worker) -> Tensor:
        """Output (B * count, H, D) of these rows under their methods."""
        weights = self.weights(query, cache, rows, layer, worker)
        batch, heads, count, keys = weights.shape
        grouped = weights.reshape(batch * self.num_kv_heads, -1, keys)
        out = self._reader(rows, worker).outputs(grouped, cache, rows, self.head_size)
        if count == 1:
            return out.view(batch, heads, -1)
        return out.view(batch, heads, count, -1).transpose(1, 2).reshape(batch * count, heads, -1)

    def weights(self, query: Tensor, cache: Any, rows: Rows, layer: int, worker: Worker) -> Tensor:
        """Edited weights (B, H, count, T)."""
        asked = self._by_key(rows.of_step(query).float(), rows)
        scores = self._reader(rows, worker).scores(asked, cache, rows)
        scores = scores.view(rows.slots.shape[0], -1, rows.count, rows.keys)
        return self.weights_of(scores, rows, layer, worker, self.scale)

    def _reader(self, rows: Rows, worker: Worker) -> Reader:
        return worker.reader if rows.blocks is not None else worker.streams.cache

    def weights_of(self, scores: Tensor, rows: Rows, layer: int, worker: Worker, scale: float = 1.0) -> Tensor:
        """Edited weights (B, H, count, T) of scores, after the methods of each part; `scale`: what is missing there."""
        if self.logits_soft_cap:
            scores, scale = torch.tanh(scores * (scale / self.logits_soft_cap)), self.logits_soft_cap
        scores = torch.add(self.bias_of(rows, layer, worker), scores, alpha=scale)
        if len(rows.parts) == 1:
            return worker.edit(scores, rows, rows.parts[0], layer)
        return torch.cat([worker.edit(scores[part.start : part.stop], rows, part, layer) for part in rows.parts])

    def bias_of(self, rows: Rows, layer: int, worker: Worker) -> Tensor:
        """(B, heads or 1, count, T) added to scores: -inf on hidden keys, the logarithm of gains."""
        gaining = tuple([part.group.layers[layer].gains_only and not part.group.broken for part in rows.parts])
        known = rows.biases.get((gaining, self._window))
        if known is None:
            known = rows.biases[gaining, self._window] = _make_bias(rows, layer, self._window, gaining, worker)
        return known

    @cached_property
    def _window(self) -> int | None:
        """Width of the sliding window, the own key included, however a backend keeps it; None without one."""
        given = self.sliding_window
        if isinstance(given, tuple):
            return None if given[0] < 0 else int(given[0]) + 1
        return None if given is None or given < 0 else int(given)

    def asked_of(self, query: Tensor, rows: Rows) -> Tensor:
        """Scaled queries (B * Hkv, H / Hkv * count, D), float32, of (B * count, H, D)."""
        return self._by_key(query.float() * self.scale, rows)

    def _by_key(self, query: Tensor, rows: Rows) -> Tensor:
        """(B * Hkv, H / Hkv * count, D) of (B * count, H, D)."""
        batch, count = rows.queries.shape
        if count > 1:
            query = query.view(batch, count, -1, self.head_size).transpose(1, 2)
        return query.reshape(batch * self.num_kv_heads, -1, self.head_size)

    def scores_of(self, query: Tensor, keys: Tensor, rows: Rows, newest: Tensor) -> Tensor:
        """Scaled scores (B, H, count, T), float32, whose rows' own keys are in a graph.

        Args:
            query: (B * count, H, D).  keys: (B * Hkv, D, T).  newest: (B * count, Hkv * D), the rows' own.
        """
        batch, count = rows.queries.shape
        asked = self.asked_of(query, rows)
        given = newest.view(batch, count, self.num_kv_heads, 1, -1).permute(0, 2, 3, 1, 4).float()
        mine = asked.view(batch, self.num_kv_heads, -1, count, self.head_size) * given
        at = rows.queries[:, None, None].expand(mine.shape[:-1])
        scores = torch.bmm(asked, keys)
        scores = scores.scatter(2, at.reshape(len(asked), -1, 1), mine.sum(dim=-1).view(len(asked), -1, 1))
        return scores.view(batch, -1, count, rows.keys)


def _make_bias(rows: Rows, layer: int, window: int | None, gaining: tuple[bool, ...], worker: Worker) -> Tensor:
    bias = rows.mask(window)
    if not any(gaining):
        return bias
    found = []
    for part, is_gain in zip(rows.parts, gaining, strict=True):
        mine = bias[part.start : part.stop]
        if is_gain:
            try:
                logs = log_gains(rows.view(part), part.group.layers[layer])
                mine = mine + logs.view(len(mine), rows.count, logs.shape[1], -1).transpose(1, 2)
            except Exception as error:  # an error in a method is its requests' own
                worker.requests.break_off([part.group], error)
        found.append(mine)
    heads = max(mine.shape[1] for mine in found)
    if heads > 1:  # one has gains by head
        found = [mine.expand(-1, heads, -1, -1) for mine in found]
    return found[0] if len(found) == 1 else torch.cat(found)
