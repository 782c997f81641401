"""Decode steps on a card under one edit that scales groups of keys: a kernel and a graph in place of twenty launches.

A step of one token is bound by what the host launches, not by what the card computes. `attend` takes this way where it
can be had: float keys in a contiguous cache on CUDA, Triton at hand, no gradient, nothing recorded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from grounddecode.engines.grouped.merge import HIDDEN, merged
from grounddecode.engines.grouped.replay import PAYS_FROM, Replay
from grounddecode.engines.hf.generation import FLAGS
from grounddecode.engines.hf.transformers_names import SOFT_CAP, WANTS_WEIGHTS, WINDOW
from grounddecode.method import Needs
from grounddecode.view import Phase

if TYPE_CHECKING:
    from grounddecode.engines.hf.attention.call import Call
    from grounddecode.engines.hf.step import Step
    from grounddecode.engines.plan import LayerPlan
    from grounddecode.method import Method


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def can_group(call: Call, plan: LayerPlan, step: Step) -> bool:
    """Whether this call, of the newest tokens of rows that the edit concerns, may go by groups."""
    query, key, value, options = call.query, call.key, call.value, call.options
    return (
        key.is_cuda
        and plan.grouped is not None
        and step.length == 1
        and step.phase is Phase.DECODE
        and step.sequence.all_see
        and not torch.is_grad_enabled()
        and query.is_contiguous()
        and key.is_contiguous()
        and value.is_contiguous()
        and key.shape == value.shape
        and options.get(SOFT_CAP) is None
        and not options.get(WANTS_WEIGHTS)
        and _reads_its_mask(call, step)
        and (step.generated >= PAYS_FROM or _known(plan, call) in plan.kept)
        and _has_triton()
        and not torch.cuda.is_current_stream_capturing()
    )


def _reads_its_mask(call: Call, step: Step) -> bool:
    """The newest token sees every key there is, or a mask says which; no mask that adds to scores."""
    if call.mask is None:
        return call.key.shape[2] <= min(step.total, call.options.get(WINDOW) or step.total)
    return call.mask.dim() == 4 and call.mask.shape[1] == 1 and call.mask.dtype == torch.bool


def _known(plan: LayerPlan, call: Call) -> Hashable:
    rows, heads, _, width = call.query.shape
    return "grouped", plan.grouped, rows, heads, width, call.query.device


def grouped_rows(call: Call, plan: LayerPlan, step: Step) -> Tensor:
    """Edited output (B, 1, H, D) of the newest tokens."""
    from grounddecode.engines.grouped.kernel import partial_attention

    method = plan.grouped
    if method is None:
        raise RuntimeError("no edit of this layer scales groups of keys")
    graph = _graph(method, call, plan)
    sums, tops, masses = graph.inputs
    flags = _flags(step, plan, call) if Needs.TOKEN_FLAGS in method.needs() else None
    labels = _labels(method, call, step)
    partial_attention(call.query, call.key, call.value, labels, flags, call.scaling, (sums, tops, masses))
    # to another tensor in any case: the next layer's replay writes over this one
    return graph().to(call.query.dtype, copy=True).unsqueeze(1)


def _graph(method: Method, call: Call, plan: LayerPlan) -> Replay:
    """What follows the kernel; one graph a shape, for all layers."""
    from grounddecode.engines.grouped.kernel import splits_of

    rows, heads, _, width = call.query.shape
    known = _known(plan, call)
    if known not in plan.kept:
        shape = (rows, heads, splits_of(rows, heads))
        buffers = [
            torch.zeros(size, device=call.query.device)
            for size in ((*shape, method.groups, width), shape, (*shape, method.groups))
        ]
        plan.kept[known] = Replay(lambda sums, tops, masses: merged(sums, tops, masses, method.group_factors), buffers)
    graph: Replay = plan.kept[known]
    return graph


def _labels(method: Method, call: Call, step: Step) -> Tensor:
    """(B, T) uint8: each key's group, `HIDDEN` where the mask hides it; once a step for layers of one mask."""
    keys, mask = call.key.shape[2], call.mask
    known = ("labels", id(mask), keys, method, call.key.device)
    if known not in step.biases:  # the mask is kept beside, so its id stays its own
        labels = method.key_groups(step.view(0, 1, keys, call.key.device))
        if mask is not None:
            labels = labels.masked_fill(~mask[:, 0, -1, :keys], HIDDEN)
        step.biases[known] = (mask, labels)
    return step.biases[known][1]


def _flags(step: Step, plan: LayerPlan, call: Call) -> Tensor:
    """(B, T) bool: the layer's token flags at the keys of this call."""
    keys = call.key.shape[2]
    known = step.sequence.memory[FLAGS, plan.layer].to(call.key.device)
    offset = max(0, step.total - keys)
    flags = known[:, offset : offset + keys]
    return flags if flags.shape[1] == keys else nn.functional.pad(flags, (0, keys - flags.shape[1]))
