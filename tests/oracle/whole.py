"""The independent oracle: whole sequences, no cache, whole query-by-key attention matrices, formulas by hand.

Nothing here comes from grounddecode. A method is an `Edit`: two functions on whole matrices. The model's own code
does everything but the attention itself; each step reads prompt and generated tokens anew from the start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from tests.zoo import FIRST_SPECIAL, Family, at

if TYPE_CHECKING:
    from tests.oracle.avc import Contrast


@dataclass
class Context:
    """What an edit may know of one pass: `image` (rows, T) bool, `end` position of each row's last image token (-1:
    none), `prompt` length of the padded prompt, `hidden` input of each decoder layer (rows, T, width), so far."""

    image: Tensor
    prompt: int
    n_layers: int
    layer: int = 0
    hidden: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[int, Tensor] = field(default_factory=dict)  # (rows, heads, T, T) that met V, by layer
    hide: Tensor | None = None  # (rows, T) bool: no keys for anybody
    pictures: Any = None  # the model and its inputs

    @property
    def end(self) -> list[int]:
        return [max((j for j, hit in enumerate(row) if hit), default=-1) for row in self.image.tolist()]

    @property
    def length(self) -> int:
        return self.image.shape[1]


class Edit:
    """A method on whole matrices (rows, heads, T, T), scores with -inf on masked keys. Return new tensors."""

    def scores(self, scores: Tensor, context: Context) -> Tensor:
        return scores

    def weights(self, weights: Tensor, context: Context) -> Tensor:
        return weights

    def gains(self, scores: Tensor, context: Context) -> Tensor | None:
        """(rows, heads, T) factors on what each head gives a query, from scores that no edit has seen."""
        return None


class Adjustment:
    """A method on next-token logits (rows, vocabulary), `now` those of `tokens` so far. Return new ones."""

    @property
    def strength(self) -> float:
        """An error of the streams' logits may grow by up to 1 + 2 times this."""
        return 0.0

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        return now


class Steering(Protocol):
    """A method on hidden states: hooks on the model's own layers while `around` lasts, for every pass of a step."""

    def around(self, oracle: Oracle, inputs: dict[str, Tensor]) -> AbstractContextManager[None]: ...


@dataclass
class Oracle:
    """Full passes of one model. `logits` is one step, `greedy` several."""

    model: Any
    family: Family
    edits: Sequence[Edit] = ()
    contrast: Contrast | None = None
    adjustments: Sequence[Adjustment] = ()
    steering: Steering | None = None

    @property
    def stack(self) -> Any:
        return at(self.model, self.family.stack)

    def greedy(self, inputs: dict[str, Tensor], steps: int) -> tuple[Tensor, Tensor]:
        """Logits (steps, rows, vocabulary) with the methods applied, and the tokens (rows, steps) they lead to."""
        tokens = torch.zeros(len(inputs["input_ids"]), 0, dtype=torch.long)
        kept: list[Tensor] = []
        keep = None
        for _ in range(steps):
            logits, keep = self.logits(inputs, tokens, keep)
            kept.append(logits)
            tokens = torch.cat([tokens, logits[:, :FIRST_SPECIAL].argmax(-1)[:, None]], dim=1)
        return torch.stack(kept), tokens

    def raw(self, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        """Next-token logits (rows, vocabulary) of the main stream alone."""
        return self.forward(self.family.extended(inputs, tokens), inputs["input_ids"].shape[1])[1]

    def exit(self, inputs: dict[str, Tensor], tokens: Tensor, layers: int) -> Tensor:
        """The same of a model that ends behind some layers: what its own norm and head make of the stream there."""
        stack, whole = self.stack, self.stack.layers
        stack.layers = whole[:layers]
        try:
            return self.raw(inputs, tokens)
        finally:
            stack.layers = whole

    def logits(
        self, inputs: dict[str, Tensor], tokens: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Next-token logits (rows, vocabulary), and the blind set (rows, prompt), found if not given."""
        with nullcontext() if self.steering is None else self.steering.around(self, inputs):
            now, keep = self._contrasted(inputs, tokens, keep)
            for adjustment in self.adjustments:
                now = adjustment.logits(now, self, inputs, tokens)
        return now, keep

    def _contrasted(
        self, inputs: dict[str, Tensor], tokens: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        prompt = inputs["input_ids"].shape[1]
        grown = self.family.extended(inputs, tokens)
        context, main = self.forward(grown, prompt)
        if self.contrast is None:
            return main, None
        if keep is None:
            keep = self.contrast.blind(context)
        dropped = (inputs["input_ids"] == self.family.image_token) & ~keep
        dropped = torch.cat([dropped, torch.zeros_like(tokens, dtype=torch.bool)], dim=1)
        _, other = self.forward(grown, prompt, dropped=dropped, scheme=self.contrast.scheme)
        return self.contrast.mix(main, other), keep

    def forward(
        self,
        inputs: dict[str, Tensor],
        prompt: int,
        dropped: Tensor | None = None,
        scheme: str = "zeros",
        gradient: bool = False,
    ) -> tuple[Context, Tensor]:
        """One pass over whole sequences.

        `dropped` (rows, T): image tokens that are overwritten or hidden. With `gradient`, the logits depend on
        `context.weights[layer]` for autograd.
        """
        image = inputs["input_ids"] == self.family.image_token
        image[:, prompt:] = False
        context = Context(image, prompt, len(self.stack.layers), pictures=(self.model, inputs))
        with ExitStack() as stack:
            stack.enter_context(full_matrices(self.stack, self.edits, context))
            if dropped is not None and scheme == "mask":
                context.hide = dropped
            elif dropped is not None:
                stack.enter_context(overwritten(self.stack, dropped, scheme))
            if gradient:
                prepared = self._prepared(inputs)
                with torch.enable_grad():
                    return context, at(self.model, self.family.runner)(**prepared).logits[:, -1].float()
            return context, self._first_logits(inputs)

    def _first_logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """A fresh `generate` of one token prepares positions and pixels just as the family wants them."""
        options = {"do_sample": False, "use_cache": False, "output_logits": True, "return_dict_in_generate": True}
        if self.steering is not None and _sources(self.stack):
            options["logits_to_keep"] = 0  # of all: else layers that share keys are given the newest token alone
        return self.model.generate(**inputs, max_new_tokens=1, **options).logits[0].float()

    def _prepared(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """What that `generate` hands to the forward pass."""
        seen: list[dict[str, Any]] = []
        runner = at(self.model, self.family.runner)
        handle = runner.register_forward_pre_hook(lambda _, __, kwargs: seen.append(dict(kwargs)), with_kwargs=True)
        try:
            self._first_logits(inputs)
        finally:
            handle.remove()
        no_cache = dict.fromkeys(name for name in ("cache", "past_key_values") if name in seen[0])
        return seen[0] | no_cache | {"use_cache": False}


def _blocks(stack: nn.Module) -> dict[nn.Module, int]:
    """Decoder layers (parents of attention modules) and their numbers."""
    return {
        parent: int(child.layer_idx)
        for parent in stack.layers.modules()
        for child in parent.children()
        if "Attention" in type(child).__name__ and getattr(child, "layer_idx", None) is not None
    }


def _sources(stack: nn.Module) -> dict[int, int]:
    """Layers without keys of their own, and the layer whose keys they read (Gemma 4): the last owner of their kind."""
    kinds, shared = getattr(stack.config, "layer_types", []), getattr(stack.config, "num_kv_shared_layers", 0)
    owners = kinds[: len(kinds) - shared]
    return {n: max(i for i, kind in enumerate(owners) if kind == kinds[n]) for n in range(len(owners), len(kinds))}


@contextmanager
def full_matrices(stack: nn.Module, edits: Sequence[Edit], context: Context) -> Iterator[None]:
    """Let every attention of `stack` go through `attention` below."""
    blocks = _blocks(stack)
    inside = {module for block in blocks for module in block.modules()}
    configs = {id(m.config): m.config for m in (stack, *inside) if hasattr(m, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    mapping = AttentionInterface._global_mapping
    eager = mapping.get("eager")

    def dispatch(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if module not in inside:
            own = sys.modules[type(module).__module__].eager_attention_forward  # an eager vision tower
            return own(module, *args, **kwargs)
        return attention(edits, context, module, *args, **kwargs)

    def remember(number: int) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            context.hidden[number] = context.hidden[sources[number]] if number in sources else given

        return hook

    sources = _sources(stack)
    handles = [block.register_forward_pre_hook(remember(n), with_kwargs=True) for block, n in blocks.items()]
    try:
        mapping["eager"] = dispatch
        for config in configs.values():
            config._attn_implementation_internal = "eager"  # the setter would change sub-configurations too
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
        if eager is None:
            del mapping["eager"]
        else:
            mapping["eager"] = eager
        for handle in handles:
            handle.remove()


def attention(
    edits: Sequence[Edit], context: Context, module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
    mask: Tensor | None, scaling: float | None = None, softcap: float | None = None, **_: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Softmax attention in full: query (B, H, T, D), key and value (B, Hkv, T, D), an additive mask."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.einsum("bhid,bhjd->bhij", query, key).float() * (
        query.shape[-1] ** -0.5 if scaling is None else scaling
    )
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = torch.where(mask[..., : key.shape[2]] < -1e30, -torch.inf, scores)
    own = key.shape[2] == context.length >= query.shape[2]  # keys are the sequence itself, not an image beside it
    unread = context.length - query.shape[2] if own else 0  # queries at the start that a layer is not given (Gemma 4)
    scores = torch.nn.functional.pad(scores, (0, 0, unread, 0))
    if own and context.hide is not None:
        scores = torch.where(context.hide[:, None, None, :], -torch.inf, scores)
    context.layer, given = int(module.layer_idx), scores
    for edit in edits if own else ():
        scores = edit.scores(scores, context)
    weights = torch.softmax(scores, dim=-1).nan_to_num()  # a padding row sees nothing
    for edit in edits if own else ():
        weights = edit.weights(weights, context)
    for edit in edits if own else ():
        gains = edit.gains(given, context)
        weights = weights if gains is None else weights * gains[..., None]
    if own:
        context.weights[context.layer] = weights
    weights = weights[:, :, unread:]
    return torch.einsum("bhij,bhjd->bihd", weights.to(value.dtype), value).contiguous(), weights


@contextmanager
def overwritten(stack: nn.Module, dropped: Tensor, scheme: str) -> Iterator[None]:
    """Image embeddings overwritten before layer 0; features that early layers add again (DeepStack) are set to 0."""

    def fill(given: Tensor) -> Tensor:
        embeds = given.clone()
        if scheme == "noise":  # the k-th overwritten token of a row gets the k-th row of one normal table
            table = torch.randn(256, embeds.shape[-1], generator=torch.Generator().manual_seed(0))
            for row, flags in enumerate(dropped):
                embeds[row, flags] = table[: int(flags.sum())]
        else:
            embeds[dropped] = {"zeros": 0.0, "ones": 1.0}[scheme]
        return embeds

    def hook(_: nn.Module, args: Any, kwargs: Any) -> Any:
        if kwargs.get("inputs_embeds") is None:  # a stack that merges the image itself: the input of its first layer
            first, change = stack.layers[0], lambda _, inputs: (fill(inputs[0]), *inputs[1:])
            handles.append(first.register_forward_pre_hook(change, prepend=True))  # before its input is looked at
            return None
        changed = kwargs | {"inputs_embeds": fill(kwargs["inputs_embeds"])}
        deep = kwargs.get("deepstack_visual_embeds")
        if deep is not None:
            gone = dropped[kwargs["visual_pos_masks"]]
            changed["deepstack_visual_embeds"] = [torch.where(gone[:, None], 0.0, features) for features in deep]
        return args, changed

    handles = [stack.register_forward_pre_hook(hook, with_kwargs=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
