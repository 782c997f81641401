"""The platform's own attention kernel over the cache of second streams: on a CPU, where a row of it is one block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.engines.vllm.stream.dense import Held


def can_read(layer: Any) -> bool:
    """Whether there is such a kernel for an attention layer; those for other processors pack keys otherwise."""
    return str(getattr(layer, "isa", "")).startswith("vec")


class Blocks:
    """What the kernel is told of the streams of one pass.

    Args:
        places: (B,) rows of the cache.  begin, counts: (B,) tokens that each has read, and reads now.
        room: tokens a row has place for.
    """

    def __init__(self, places: np.ndarray, begin: np.ndarray, counts: np.ndarray, room: int) -> None:
        from vllm import _custom_ops, envs

        self._operators, self._splits = _custom_ops, envs.VLLM_CPU_ATTN_SPLIT_KV
        first = np.cumsum(counts) - counts
        self._starts = torch.from_numpy(np.append(first, counts.sum()).astype(np.int32))
        self._table = torch.from_numpy(places.astype(np.int32)[:, None])
        self._reached = (begin + counts).astype(np.int32)  # the tensors below are the same memory
        self._at = np.repeat(places * room + begin - first, counts) + np.arange(counts.sum())
        self._lengths, self._slots = torch.from_numpy(self._reached), torch.from_numpy(self._at)
        self._scheduled: dict[tuple[Any, ...], Tensor] = {}

    def go_on(self) -> None:
        """The next step: each stream has read one token more."""
        self._reached += 1
        self._at += 1
        self._scheduled.clear()

    def write(self, layer: Any, key: Tensor, value: Tensor, held: Held) -> None:
        """Put the new keys and values (tokens, Hkv, D) into the cache."""
        self._operators.cpu_attn_reshape_and_cache(key, value, *held.blocks, self._slots, layer.isa)

    def attend(self, impl: Any, layer: Any, query: Tensor, held: Held, output: Tensor) -> None:
        """Attention of queries (tokens, H, D) to the keys of their stream up to themselves, into `output`."""
        keys, values = held.blocks
        self._operators.cpu_attention_with_kv_cache(
            query, keys, values, output, self._starts, self._lengths, impl.scale, True, None, impl.sliding_window,
            self._table, impl.logits_soft_cap, self._schedule(impl, layer, query), None,
        )  # fmt: skip

    def _schedule(self, impl: Any, layer: Any, query: Tensor) -> Tensor:
        """How the kernel shares the work out; layers of the same heads share it. It holds whatever the window."""
        heads = impl.num_heads, impl.num_kv_heads, impl.head_size
        known = self._scheduled.get(heads)
        if known is None:
            known = self._scheduled[heads] = self._operators.cpu_attn_get_scheduler_metadata(
                len(self._table), *heads, self._lengths, query.dtype, self._starts, True, -1, layer.isa, self._splits
            )
        return known
