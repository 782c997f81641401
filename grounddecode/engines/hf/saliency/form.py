"""The form of decoder blocks whose way back is written out, by the names that transformers gives their parts.

Llama, Mistral, Qwen2 and what is made of them. A block with anything more (norms of queries or behind the parts,
adapters, quantised or offloaded layers, somebody's hooks, a forward of its own) has another form. What no name tells,
such as factors on the way, a first comparison with autograd does: `written.WrittenOut`. It is made once, so what sets
in later in a sequence has to be known by name (`_FAR`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor, nn

from grounddecode.engines.saliency.way_back import Norm, Products

ROTATION = "position_embeddings"  # argument of a block: cosines and sines (rows or 1, tokens, D)
INPUT = "hidden_states"  # its first argument
_BLOCK = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_FAR = "llama_4_scaling_beta"  # of `rope_parameters`: queries are multiplied, far into a sequence (Ministral 3)
_ROTARY = "rotary_emb"  # that attention may own, and be given the result of another
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "act_fn")
_SILU = ("SiLUActivation", "SiLU")
_EPSILON = "variance_epsilon"  # of norms that multiply with their weight as it is; Gemma's say `eps`
_OBSERVERS = ("grounddecode.", "transformers.utils.output_capturing")  # modules whose hooks change nothing here
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Parts:
    """The modules of one block."""

    block: nn.Module
    norms: tuple[nn.Module, nn.Module]
    attention: tuple[nn.Linear, nn.Linear, nn.Linear]
    out: nn.Linear
    inner: tuple[nn.Linear, nn.Linear]
    down: nn.Linear

    @property
    def products(self) -> Products:
        attention, inner = ([part.weight.detach() for part in parts] for parts in (self.attention, self.inner))
        return Products(attention, self.out.weight.detach(), inner, self.down.weight.detach())


def parts_of(blocks: Sequence[nn.Module], norm: nn.Module | None) -> list[Parts] | None:
    """The parts of blocks of the form that a norm stands behind; None where one is of another form."""
    if norm is None or not _is_norm(norm) or not all(_has_form(block) for block in blocks):
        return None
    found = [_parts(block) for block in blocks]
    weights = [part.weight for one in found for part in (*one.attention, one.out, *one.inner, one.down)]
    kinds = {(weight.dtype, weight.device) for weight in weights}
    return found if len(kinds) == 1 else None


def norm_of(module: nn.Module) -> Norm:
    weight: Any = module.weight
    return Norm(weight.detach(), float(getattr(module, _EPSILON)))


def norms_of(parts: Parts) -> tuple[Norm, Norm]:
    return norm_of(parts.norms[0]), norm_of(parts.norms[1])


def _has_form(block: nn.Module) -> bool:
    found = dict(block.named_children())
    if set(found) != set(_BLOCK) or block.training:
        return False
    attention, feed_forward = dict(found["self_attn"].named_children()), dict(found["mlp"].named_children())
    attention.pop(_ROTARY, None)
    if set(attention) != set(_ATTENTION) or set(feed_forward) != set(_FEED_FORWARD):
        return False
    linear = [*attention.values(), *(module for name, module in feed_forward.items() if name != "act_fn")]
    return (
        type(feed_forward["act_fn"]).__name__ in _SILU
        and all(_is_linear(module) for module in linear)
        and _is_norm(found["input_layernorm"])
        and _is_norm(found["post_attention_layernorm"])
        and all(_is_bare(module) for module in (block, found["self_attn"], found["mlp"]))
        and not _changes_far_on(found["self_attn"])
        and _is_plain([block, *block.modules()])
    )


def _changes_far_on(attention: Any) -> bool:
    rope: Any = getattr(getattr(attention, "config", None), "rope_parameters", None)
    return bool(rope) and rope.get(_FAR) is not None


def _parts(block: Any) -> Parts:
    attention, mlp = block.self_attn, block.mlp
    return Parts(
        block,
        (block.input_layernorm, block.post_attention_layernorm),
        (attention.q_proj, attention.k_proj, attention.v_proj),
        attention.o_proj,
        (mlp.gate_proj, mlp.up_proj),
        mlp.down_proj,
    )


def _is_norm(module: nn.Module) -> bool:
    names = [name for name, _ in chain(module.named_parameters(), module.named_buffers())]
    usual = type(module).__name__.endswith("RMSNorm") and hasattr(module, _EPSILON) and names == ["weight"]
    return usual and _is_weight(module.weight) and not list(module.children()) and _is_plain([module])


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and _is_weight(module.weight)


def _is_weight(weight: Any) -> bool:
    return type(weight) is nn.Parameter and type(weight.data) is Tensor and weight.is_floating_point()


def _is_bare(module: nn.Module) -> bool:
    """Whether all weights of a module are those of its parts."""
    return not list(chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)))


def _is_plain(modules: Iterable[nn.Module]) -> bool:
    """Whether what these modules do is what their classes say."""
    return not any("forward" in vars(m) or m._compiled_call_impl is not None or _is_hooked(m) for m in modules)


def _is_hooked(module: nn.Module) -> bool:
    hooks = (hook for kind in _HOOKS for hook in getattr(module, kind).values())
    return any(not str(getattr(hook, "__module__", "")).startswith(_OBSERVERS) for hook in hooks)
