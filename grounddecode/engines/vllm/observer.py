"""Token flags on a server: what a method says of each token from the input of each decoder layer, kept by cache slot.

Flags share the life of the cache block they belong to, so that prefix hits, chunked prompts and preemption need no
bookkeeping. They are made before any request asks, so what they depend on is the server's.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from grounddecode.engines.vllm.attention.cache import every_block

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.step import Rows
    from grounddecode.engines.vllm.requests import Current
    from grounddecode.engines.vllm.stream.second import Streams
    from grounddecode.method import Method

OP = "grounddecode_observe"
OTHERS = "use methods that look at no hidden states"
_observers: dict[int, Observer] = {}  # by vLLM's table of layers, which a forward pass knows
_BLOCK = re.compile(r"^(.*\.layers\.\d+)\.")


class Observer:
    """Flags of methods that a server was started for.

    Args:
        layers: its attention layers, by vLLM's name of them.  kept: a layer whose input `keep` is given as well.
    """

    def __init__(
        self, worker: Current, streams: Streams, methods: Sequence[Method], layers: dict[str, Any], model: nn.Module,
        kept: int | None = None, keep: Callable[[Tensor], None] | None = None,
    ) -> None:  # fmt: skip
        self.worker, self.streams = worker, streams
        self.methods, self._layers = tuple(methods), layers
        self._kept, self._keep = kept, keep
        self._flags: dict[tuple[int, str], _Kept] = {}
        self._last: tuple[Tensor, object, Tensor] | None = None
        self.names = {worker.layer_index(layer): name for name, layer in layers.items()}
        _observers[id(worker.vllm_config.compilation_config.static_forward_context)] = self
        _register_op()
        for name, layer in layers.items():
            index = worker.layer_index(layer)
            if index == kept or any(m.acts_on(index, worker.n_layers) for m in self.methods):
                _hook(model, name)

    def index(self, method: Method) -> int | None:
        """Which of the server's flags serve this method; None if none do."""
        return next((i for i, mine in enumerate(self.methods) if mine.same_flags(method)), None)

    def note(self, hidden: Tensor, name: str, slots: Tensor | None) -> None:
        """The input (tokens, width) of a decoder layer; `slots`: where in the cache each token lies, -1 for padding."""
        layer = self._layers[name]
        index = self.worker.layer_index(layer)
        if self._keep is not None and slots is not None and index == self._kept:
            self._keep(hidden)
        for i, method in enumerate(self.methods):
            flags = method.flag_tokens(hidden[None], index)
            if self.streams.running is not None:
                self.streams.running.note(flags[0], i, name)
            kept = None if slots is None else self._room(i, name, layer)
            if kept is not None and slots is not None:
                count = slots.shape[0]
                placed = self._placed(slots, kept.by_slot.shape[1] - 1)
                kept.by_slot.index_copy_(1, placed, flags if flags.shape[1] == count else flags[:, :count])

    def _placed(self, slots: Tensor, padding: int) -> Tensor:
        """The slots with padding in its own place; the layers of a step share them."""
        if self._last is None or self._last[0] is not slots or self._last[1] is not self.worker.layout:
            self._last = slots, self.worker.layout, slots.where(slots >= 0, padding)
        return self._last[2]

    def _room(self, index: int, name: str, layer: Any) -> _Kept | None:
        """None before the cache has been made."""
        kept = self._flags.get((index, name))
        if kept is None:
            cache = layer.kv_cache
            if not isinstance(cache, Tensor) or cache.dim() != 4 or not cache.numel():
                return None
            blocks, size = cache.shape[0], cache.shape[2]
            by_slot = torch.zeros(1, blocks * size + 1, dtype=torch.bool, device=cache.device)
            kept = self._flags[index, name] = _Kept(by_slot, by_slot[0, :-1].view(blocks, size))
        return kept

    def flags(self, index: int, layer: int, rows: Rows) -> Tensor | None:
        """(B, T) bool of the keys of these rows, None before anything was noted in this layer."""
        kept = self._flags.get((index, self.names[layer]))
        if kept is None:
            return None
        return kept.by_block.index_select(0, every_block(rows)).view(-1, rows.keys)


class _Kept(NamedTuple):
    """Flags of the whole cache, (1, slots) and one more for padding; and those without it, (blocks, tokens)."""

    by_slot: Tensor
    by_block: Tensor


def _hook(model: nn.Module, name: str) -> None:
    """Have the decoder layer around an attention layer tell its input, before it is compiled."""
    found = _BLOCK.match(name)
    if found is None:
        raise ValueError(f"grounddecode: {name} lies in no decoder layer, this model cannot be watched, {OTHERS}")
    block = model.get_submodule(found.group(1))
    names = list(inspect.signature(block.forward).parameters)
    if "hidden_states" not in names:
        raise ValueError(f"grounddecode: {type(block).__name__} takes no hidden_states, {OTHERS}")
    at, behind = (names.index(given) if given in names else len(names) for given in ("hidden_states", "residual"))
    block.register_forward_pre_hook(functools.partial(_tell, name, at, behind), with_kwargs=True)


def _tell(layer: str, at: int, behind: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """`at`, `behind`: where among the arguments of a block its hidden states are, and their residual."""
    hidden = args[at] if at < len(args) else kwargs["hidden_states"]
    residual = args[behind] if behind < len(args) else kwargs.get("residual")
    tell = torch.ops.vllm.grounddecode_observe if torch.compiler.is_compiling() else observe
    tell(hidden, residual, layer)


def observe(hidden: Tensor, residual: Tensor | None, layer_name: str) -> None:
    """An operator to vLLM, so that it runs inside a compiled graph. It says that it changes `hidden`, so it is kept."""
    from vllm.forward_context import get_forward_context

    context = get_forward_context()
    observer = _observers.get(id(context.no_compile_layers))
    if observer is None or context.attn_metadata is None:
        return
    slots = context.slot_mapping.get(layer_name) if isinstance(context.slot_mapping, dict) else None
    if slots is None and not observer.streams.running:
        return
    observer.note(hidden if residual is None else hidden + residual, layer_name, slots)


def _nothing(hidden: Tensor, residual: Tensor | None, layer_name: str) -> None:
    return None


def _register_op() -> None:
    from vllm.utils.torch_utils import direct_register_custom_op

    if not hasattr(torch.ops.vllm, OP):
        direct_register_custom_op(op_name=OP, op_func=observe, mutates_args=["hidden"], fake_impl=_nothing)
