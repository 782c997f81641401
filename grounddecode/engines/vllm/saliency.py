"""Gradients inside the worker: the newest row of each judged request runs through the upper layers once more, in torch.

vLLM's kernels have no gradient, and its worker runs in inference mode. So vLLM's own layers are called again for one
token a request, with their kernels replaced by plain torch for that moment, against keys and values from the cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from grounddecode.coherence import NOT_THERE
from grounddecode.engines.log_odds import log_odds_gradients
from grounddecode.engines.saliency.way_back import down, sizes, towards
from grounddecode.engines.vllm.attention.step import Rows, rows_at
from grounddecode.engines.vllm.blocks import Blocks, PlainLinear, fits, plain_norm

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.cache import Reader
    from grounddecode.engines.vllm.requests import Asked, Current

_BLOCK = re.compile(r"^((.*)\.layers)\.(\d+)\.")
OTHERS = "use a method without gradients"
_MISSING = object()
_TOLERANCE = 0.02  # share of the logits' size by which the layers in torch may differ from vLLM's


@dataclass
class _Newest:
    """The newest row of each of some requests of one group, and what is asked of it, see `Saliency.of`."""

    members: Sequence[Asked]
    rows: Rows
    hidden: Tensor  # (R, width), what the lowest layer was given
    positions: Tensor  # (R,), or (3, R)
    logits: Tensor
    wanted: tuple[int, ...]
    tokens: Tensor


@dataclass
class _Target:
    weights: Tensor  # (R, H, T), edited
    output: Tensor  # (R * K, H * D), in the graph
    values: Tensor  # (R * Hkv, T, D)


@dataclass
class _Run:
    """Rows that run through the upper layers again; `layers`: the target layers, ascending."""

    rows: Rows
    layers: tuple[int, ...]
    targets: dict[int, _Target] = field(default_factory=dict)


class Saliency:
    """Raises ValueError for models that cannot be run again in torch.

    Args:
        layers: its attention layers, by vLLM's name of them.  lowest: the one that gradients start at.
        name: of the method that asks.
    """

    def __init__(
        self, worker: Current, reader: Reader, layers: dict[str, Any], model: nn.Module, lowest: int, name: str
    ) -> None:
        self.worker, self.lowest, self.name = worker, lowest, name
        self._reader = reader
        if worker.ranks > 1:
            raise ValueError(
                f"grounddecode: {name} needs gradients, which do not cross ranks, use --tensor-parallel-size 1"
            )
        if worker.vllm_config.model_config.quantization is not None:
            raise ValueError(
                f"grounddecode: {name} needs gradients, which quantised layers do not give, load it unquantised"
            )
        if worker.vllm_config.lora_config is not None:
            raise ValueError(f"grounddecode: {name} needs gradients, which leave adapters out, leave --enable-lora out")
        self._layers = {worker.layer_index(layer): (name, layer) for name, layer in layers.items()}
        path = _BLOCK.match(next(iter(layers)))
        if path is None:
            raise ValueError(f"grounddecode: {name} cannot find the decoder layers of this model, {OTHERS}")
        self._stack = model.get_submodule(path.group(2))
        self._blocks = [model.get_submodule(f"{path.group(1)}.{i}") for i in range(lowest, worker.n_layers)]
        self._head, self._scaling = _unembedding(model, name)
        self._hidden: Tensor | None = None  # (tokens, width), what the lowest layer was given
        self._known: dict[nn.Module, Tensor] = {}
        self._proven = False
        self._by_form = self._written_out()
        self._patches: list[tuple[Any, str, Any]] | None = None
        self._run: _Run | None = None

    def keep(self, hidden: Tensor) -> None:
        """The input (tokens, width) of the lowest layer in this step."""
        layout, requests = self.worker.layout, self.worker.requests
        if layout is not None and requests.judging[layout.slots].any():
            self._hidden = hidden.clone()

    # -- the rows in torch -------------------------------------------------------------------------------------------
    def of(
        self,
        members: Sequence[Asked],
        logits: Tensor,
        lengths: np.ndarray,
        at: np.ndarray,
        wanted: Sequence[int],
        tokens: Tensor,
    ) -> Tensor:
        """(layers, R, K, T), see `Method.judge`.

        Args:
            members: requests; of each, `lengths` tokens were read, the newest being token `at` of the step.
            logits: (R, vocabulary).  wanted: target layers, ascending.  tokens: (R, K) candidates.
        """
        if self._hidden is None or self.worker.positions is None:
            raise RuntimeError("the lowest target layer told no hidden states")
        index = torch.from_numpy(at).to(logits.device)
        hidden, positions = self._hidden[index], self.worker.positions[..., index]
        slots = np.array([one.slot for one in members])
        rows = rows_at(self.worker.requests, slots, lengths - 1, *self.worker.block_rows(members))
        newest = _Newest(members, rows, hidden, positions, logits, tuple(wanted), tokens)
        found = self._by_hand(newest)
        if found is None:
            found = self._by_graph(newest)
        keys = torch.arange(int(lengths.max()), device=found.device)
        behind = keys > torch.from_numpy(lengths).to(found.device)[:, None] - 1
        return found[..., : len(keys)].masked_fill(behind[:, None], NOT_THERE)

    def _by_hand(self, newest: _Newest) -> Tensor | None:
        """With the gradients written out; None where they are not, for this model or these edits."""
        blocks, layers = self._by_form, newest.members[0].group.layers
        upper = [layers[layer] for layer in range(self.lowest, self.worker.n_layers)]
        if blocks is None or newest.positions.dim() > 1 or any(x.edits and not x.gains_only for x in upper):
            return None
        with torch.inference_mode():
            last, way = blocks.up(newest.hidden, newest.positions, newest.rows)
            if not self._proven and not self._agrees(last, newest.logits):
                self._by_form = None  # its parts look like the form, but it is another
                return None
            self._proven = True
            return self._mean(down(way, self._starts(newest), newest.wanted))

    def _by_graph(self, newest: _Newest) -> Tensor:
        """With torch's gradients of vLLM's own layers."""
        count = newest.tokens.shape[1]  # a row for each candidate, so that one backward pass serves all
        hidden = newest.hidden.repeat_interleave(count, dim=0)
        positions = newest.positions.repeat_interleave(count, dim=-1)
        rows = newest.rows
        rows = replace(rows, count=count, queries=rows.queries.expand(-1, count), memo={}, biases={})
        run = _Run(rows, newest.wanted)
        with torch.enable_grad(), self._in_torch(run):
            residual = None
            for block in self._blocks:
                hidden, residual = block.forward(positions, hidden, residual)  # without the hooks that watch it
            last, _ = self._stack.get_submodule("norm")(hidden, residual)
        if not self._proven and not self._agrees(last[::count].detach(), newest.logits):
            raise ValueError(f"{self.name}: the upper layers of this model in torch differ from vLLM's, use engine hf")
        self._proven = True
        start = self._starts(newest).to(last.dtype).flatten(0, 1)
        targets, many = [run.targets[layer] for layer in run.layers], len(newest.members)
        deltas = torch.autograd.grad(last, [one.output for one in targets], grad_outputs=start)
        found = []
        for one, delta in zip(targets, deltas, strict=True):
            grads = towards(one.values, delta.view(many, count, -1))
            weights = one.weights.reshape(len(grads), 1, -1, rows.keys)
            found.append(sizes(weights * grads, many))
        return self._mean(found)

    def _mean(self, found: Sequence[Tensor]) -> Tensor:
        """(layers, R, K, T) over the heads, of sums over them."""
        heads: int = self._layers[self.lowest][1].impl.num_heads
        return torch.stack(list(found)) / heads

    def _starts(self, newest: _Newest) -> Tensor:
        """(R, K, width): gradients of the last hidden states."""
        return log_odds_gradients(self._head_weight(), newest.logits, newest.tokens, self._scaling.soft_cap)

    @contextmanager
    def _in_torch(self, run: _Run) -> Iterator[None]:
        """The upper layers with every kernel replaced by torch."""
        if self._patches is None:
            self._patches = self._make_patches()
        before = [(owner, name, vars(owner).get(name, _MISSING)) for owner, name, _ in self._patches]
        self._run = run
        try:
            for owner, name, value in self._patches:
                vars(owner)[name] = value
            yield
        finally:
            self._run = None
            for owner, name, value in before:
                if value is _MISSING:
                    vars(owner).pop(name, None)
                else:
                    vars(owner)[name] = value

    def _make_patches(self) -> list[tuple[Any, str, Any]]:
        """What is set on which module while a row runs again."""
        from vllm.model_executor.custom_op import CustomOp
        from vllm.model_executor.layers.layernorm import RMSNorm
        from vllm.model_executor.layers.linear import LinearBase

        found: list[tuple[Any, str, Any]] = []
        for module in (m for block in [*self._blocks, self._stack.get_submodule("norm")] for m in block.modules()):
            if isinstance(module, LinearBase):
                found.append((module, "quant_method", PlainLinear(self.weight)))
            elif type(module) is RMSNorm:
                found.append((module, "_forward_method", plain_norm(module)))
            elif isinstance(module, CustomOp):
                found.append((module, "_forward_method", module.forward_native))
        for layer in range(self.lowest, self.worker.n_layers):
            attention = self._layers[layer][1]
            found.append((attention, "forward", partial(self._attend, attention, layer)))
        return found

    def _attend(
        self, attention: Any, layer: int, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        """One attention layer for the rows: earlier keys and values from the cache, their own in the graph."""
        run, impl, worker = self._run, attention.impl, self.worker
        if run is None:
            raise RuntimeError("no row runs again")
        rows, groups = run.rows, impl.num_kv_heads
        batch, count = rows.queries.shape
        reader, cache = self._reader, attention.kv_cache
        keys, values = _usable(reader.keys(cache, rows)), _usable(reader.values(cache, rows))
        own = rows.queries[:, None, :, None].expand(-1, impl.num_heads, -1, 1)
        weights = impl.weights_of(
            impl.scores_of(query.view(len(query), impl.num_heads, -1), keys, rows, key), rows, layer, worker
        )
        others = weights.scatter(3, own, 0.0).reshape(len(values), -1, rows.keys)
        newest = value.view(batch, count, groups, 1, -1).permute(0, 2, 3, 1, 4).float()
        mine = weights.gather(3, own).view(batch, groups, -1, count, 1)
        output = torch.bmm(others, values).view(batch, groups, -1, count, values.shape[-1])
        output = torch.addcmul(output, mine, newest).permute(0, 3, 1, 2, 4)
        attended: Tensor = output.reshape(batch * count, -1).to(query.dtype)
        if layer == run.layers[0]:  # the graph starts here
            attended = attended.detach().requires_grad_()
        if layer in run.layers:
            run.targets[layer] = _Target(weights[:, :, 0].detach(), attended, values)
        return attended

    def _agrees(self, hidden: Tensor, logits: Tensor) -> bool:
        """Whether the layers in torch give what vLLM's kernels gave."""
        weight = self._head_weight()
        mine = hidden.float() @ weight.float().mT
        if self._scaling.soft_cap is not None:
            mine = torch.tanh(mine / self._scaling.soft_cap) * self._scaling.soft_cap
        seen = logits.isfinite()  # a grammar hides some
        given = torch.where(seen, logits.float(), 0.0)
        off = torch.where(seen, mine[:, : logits.shape[1]] * self._scaling.scale - given, 0.0)
        return float(off.norm()) <= _TOLERANCE * float(given.norm())

    def _written_out(self) -> Blocks | None:
        """The upper layers with their gradients written out, where they have the form for that."""
        attentions = [self._layers[layer][1] for layer in range(self.lowest, self.worker.n_layers)]
        norm = self._stack.get_submodule("norm")
        if any(layer.impl.logits_soft_cap for layer in attentions) or not fits(self._blocks, norm):
            return None
        return Blocks(self.worker, self._reader, self._blocks, attentions, norm, self.lowest, self.weight)

    def _head_weight(self) -> Tensor:
        rows: Tensor = self.weight(self._head)[: self._scaling.org_vocab_size]
        return rows

    def weight(self, module: Any) -> Tensor:
        """(out, in) of a linear layer; a CPU kernel may have taken it away, then it is asked for once."""
        if module.weight.dim() == 2 and module.weight.numel():
            weight: Tensor = module.weight.detach()
            return weight
        if module not in self._known:
            width = getattr(module, "input_size_per_partition", None) or module.embedding_dim
            with torch.inference_mode(False), torch.no_grad():  # it outlives the caller's mode
                one = torch.eye(int(width), dtype=module.weight.dtype, device=module.weight.device)
                self._known[module] = module.cpu_linear(one, module.weight, None).mT.contiguous()
        found: Tensor = self._known[module]
        return found


def _usable(x: Tensor) -> Tensor:
    """A tensor that a graph may keep: one made in inference mode it may not."""
    return x.clone() if x.is_inference() else x


def _unembedding(model: nn.Module, name: str) -> tuple[Any, Any]:
    """The output embedding, and the module that scales its output."""
    for module in model.modules():
        head, scaling = getattr(module, "lm_head", None), getattr(module, "logits_processor", None)
        if head is not None and scaling is not None and not hasattr(module, "language_model"):
            return head, scaling
    raise ValueError(f"grounddecode: {name} cannot find the output embedding of this model, {OTHERS}")
