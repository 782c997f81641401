"""What a vision tower looks at, and which image tokens it makes of that; nothing here comes from grounddecode.

Attention is computed in whole matrices. Which patches stand behind a token is asked of the model's own code: those
towards whose hidden states the token's features have a gradient.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface


@dataclass
class Picture:
    """What the tower saw by itself: `tokens` numbers of the batch's image tokens, and what they receive.

    `first`, `last`, `received`: one number a token, in their order.
    """

    tokens: list[int]
    first: list[float]
    last: list[float]
    received: list[float]


@torch.enable_grad()  # it may be asked within `generate`
def pictures(model: Any, inputs: dict[str, Tensor]) -> tuple[list[Picture], int]:
    """The pictures or tiles of a batch in the tower's order, and how many image tokens the batch has."""
    tower = next(getattr(model.model, n) for n in ("vision_tower", "visual", "vision_model") if hasattr(model.model, n))
    attending = [m for m in tower.modules() if "Attention" in type(m).__name__ and hasattr(m, "config")]
    setting = getattr(model.config, "vision_feature_layer", -1)
    read = attending[-1 if setting is None else setting]
    maps, leaf, features = _run(model, tower, inputs, attending[0], read)
    behind = [_support(token, leaf) for token in features]
    cls = any("class_embedding" in name or "cls_token" in name for name, _ in tower.named_parameters())
    found = [_picture(places, maps[attending[0]], maps[read], behind, cls) for places in _units(maps[read])]
    return found, len(behind)


def _run(
    model: Any, tower: nn.Module, inputs: dict[str, Tensor], first: nn.Module, read: nn.Module
) -> tuple[dict[nn.Module, list[Tensor]], Tensor, Tensor]:
    """Attention maps (heads, n, n) of two layers, the output of the block that is read, and (tokens, width)."""
    maps: dict[nn.Module, list[Tensor]] = {first: [], read: []}
    leaves: list[Tensor] = []
    parent = next(m for m in tower.modules() if read in m.children())

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = torch.einsum("bhid,bhjd->bhij", query.double(), key.double()) * options["scaling"]
        hidden = torch.zeros(()) if attention_mask is None else attention_mask
        weights = scores.masked_fill(hidden < -1e30, -torch.inf).softmax(-1)
        if module in maps:
            maps[module] += list(weights.detach())
        return torch.einsum("bhij,bhjd->bihd", weights.to(value.dtype), value).contiguous(), None

    def cut(_: Any, __: Any, output: Any) -> Any:
        plain = output[0] if isinstance(output, tuple) else output
        leaves.append(plain.detach().requires_grad_())
        return (leaves[0], *output[1:]) if isinstance(output, tuple) else leaves[0]

    configs = {id(m.config): m.config for m in tower.modules() if hasattr(m, "config")}
    before, mapping = {key: c._attn_implementation for key, c in configs.items()}, AttentionInterface._global_mapping
    known = mapping.get("eager")
    hook = parent.register_forward_hook(cut, prepend=True)  # before what collects hidden states
    try:
        mapping["eager"] = attend
        for config in configs.values():
            config._attn_implementation_internal = "eager"
        encode = model.model.get_image_features
        given = {name: inputs[name] for name in inspect.signature(encode).parameters if name in inputs}
        output = encode(**given, return_dict=True).pooler_output
        parts = [output] if isinstance(output, Tensor) else list(output)
        return maps, leaves[0], torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    finally:
        hook.remove()
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
        if known is None:
            del mapping["eager"]
        else:
            mapping["eager"] = known


def _support(token: Tensor, leaf: Tensor) -> list[int]:
    """Places of the tower's sequence, all its rows behind each other, that a token is made of."""
    if not token.requires_grad:
        return []
    (gradient,) = torch.autograd.grad(token.double().sum(), leaf, retain_graph=True, allow_unused=True)
    if gradient is None:
        return []
    return gradient.reshape(-1, gradient.shape[-1]).any(-1).nonzero()[:, 0].tolist()


def _units(maps: list[Tensor]) -> list[list[int]]:
    """Places that see each other in the last layer."""
    units: list[list[int]] = []
    start = 0
    for weights in maps:
        seen = weights.sum(0) > 0
        for row in range(len(seen)):
            places = [start + j for j in seen[row].nonzero()[:, 0].tolist()]
            if places not in units:
                units.append(places)
        start += len(seen)
    return units


def _picture(places: list[int], first: list[Tensor], last: list[Tensor], behind: list[list[int]], cls: bool) -> Picture:
    tokens = [t for t, support in enumerate(behind) if support and support[0] in places]
    asking = places[1:] if cls else places
    whole = [torch.block_diag(*[weights.mean(0) for weights in maps]) for maps in (first, last)]
    received = whole[0][asking].mean(0)
    rows = [matrix[places[0]] for matrix in whole] if cls else [received, whole[1][places].mean(0)]
    means = [[float(row[behind[t]].mean()) for t in tokens] for row in (*rows, received)]
    return Picture(tokens, *means)
