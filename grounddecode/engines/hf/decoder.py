"""Where the decoder of a Hugging Face LVLM is: attention modules, layers, image token. No per-family table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from grounddecode.engines.hf import transformers_names
from grounddecode.images.layout import image_token_id
from grounddecode.method import Method, Needs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module of the decoder, and the decoder layer it is in, whatever is wrapped around either.

    `cross`: its keys are vision tokens, not text positions (Mllama).
    """

    index: int
    module: nn.Module
    block: nn.Module
    cross: bool


@dataclass(frozen=True)
class Decoder:
    """The parts of a model that the engine touches.

    `runner` is the module whose `forward` the generation loop calls: the model itself, or its language model where
    `generate` of the model delegates to it (BLIP-2, InstructBLIP). `stack` owns the decoder layers, all of which are
    `blocks`, those without attention too; `text` is their configuration.
    """

    model: PreTrainedModel
    runner: nn.Module
    stack: nn.Module
    blocks: tuple[nn.Module, ...]
    layers: tuple[AttentionLayer, ...]
    n_heads: int
    text: Any
    image_token_id: int
    video_token_id: int | None = None

    @property
    def implementation(self) -> str:
        """The attention kernel, as it is now: `set_attn_implementation` changes it."""
        kernel = str(transformers_names.found(self.text, "_attn_implementation"))
        if kernel in transformers_names.BLOCK_MASKS:
            raise ValueError(f"the masks of {kernel} cannot be read row by row, load with attn_implementation='sdpa'")
        return kernel

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def is_hybrid(self) -> bool:
        """Whether some layers mix tokens by something else than attention (Qwen3.5, LFM2)."""
        return len({layer.index for layer in self.layers}) < self.n_layers


def find_decoder(model: PreTrainedModel) -> Decoder:
    """The decoder of `model`.

    An attention module of the decoder is one whose `config` *is* the text configuration, with a `layer_idx` and
    "Attention" in its class name; this held for every family tried (docs: support table).

    Raises:
        ValueError: not a decoder-only vision-language model whose attention goes through transformers' interface.
    """
    name = type(model).__name__
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "generate"):
        raise ValueError(f"{name} is no transformers model that generates, give e.g. LlavaForConditionalGeneration")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder-decoder, grounddecode works on decoder-only vision-language models")
    text = transformers_names.found(config, "get_text_config")(decoder=True)
    image_token = image_token_id(config)
    if image_token is None:
        raise ValueError(f"{name} is a text-only model (its config names no image token), give a vision-language model")
    attention = _attention_modules(model, text)
    if not attention:
        raise ValueError(f"{name}: no attention module goes through transformers' attention interface, use native code")
    stack, blocks = _stack(model, attention[0], int(text.num_hidden_layers))
    layers = _attention_layers(attention, blocks)
    if not layers:
        raise ValueError(
            f"{name}: its attention lies in no list 'layers' of {text.num_hidden_layers} decoder layers, as many as "
            "its configuration says, use another model"
        )
    return Decoder(
        model=model,
        runner=_runner(model, stack),
        stack=stack,
        blocks=blocks,
        layers=layers,
        n_heads=int(text.num_attention_heads),
        text=text,
        image_token_id=image_token,
        video_token_id=transformers_names.video_token(config),
    )


def require_layers(decoder: Decoder, methods: Sequence[Method]) -> None:
    """Refuse methods that name layers or heads which the decoder has not, or layers whose attention is no text's."""
    attending = {layer.index for layer in decoder.layers if not layer.cross}
    for method in methods:
        method.require_decoder(decoder.n_layers, decoder.n_heads)
        if Needs.ATTENTION_EDIT not in method.active_needs():
            continue
        acting = {layer for layer in range(decoder.n_layers) if method.acts_on(layer, decoder.n_layers)}
        others = sorted(set(method.named_layers()) - attending)
        if others or not acting & attending:
            raise ValueError(
                f"{method.name}: layers {others or sorted(acting)} of {type(decoder.model).__name__} have no attention "
                f"among the tokens of the sequence, choose of {sorted(attending)}"
            )


def generating(model: Any) -> Any:
    """The model whose `generate` runs, inside of what wraps it (`torch.compile`, PEFT, data parallelism).

    Raises:
        ValueError: a wrapper that puts tokens of its own before the prompt.
    """
    from transformers import GenerationMixin

    if isinstance(model, GenerationMixin) or not isinstance(model, nn.Module):
        return model
    for adapter in (getattr(model, "peft_config", None) or {}).values():
        if getattr(adapter, "is_prompt_learning", False):
            raise ValueError(
                f"{type(model).__name__} puts learnt tokens before the prompt ({type(adapter).__name__}), which "
                "methods would take for text, use an adapter of weights such as LoRA"
            )
    return next((module for module in model.modules() if isinstance(module, GenerationMixin)), model)


def require_image_keys(decoder: Decoder, methods: Sequence[Method]) -> None:
    """Refuse methods that act on image tokens as keys where images are read through cross-attention (Mllama)."""
    for method in methods:
        if Needs.IMAGE_KEYS in method.active_needs() and any(layer.cross for layer in decoder.layers):
            raise ValueError(
                f"{method.name}: {type(decoder.model).__name__} reads its images through cross-attention, use a model "
                "whose image tokens lie in the sequence"
            )


def _attention_modules(model: nn.Module, text: Any) -> list[nn.Module]:
    return [
        module
        for module in model.modules()
        if getattr(module, "config", None) is text
        and getattr(module, "layer_idx", None) is not None
        and "Attention" in type(module).__name__
    ]


def _stack(model: nn.Module, attention: nn.Module, count: int) -> tuple[nn.Module, tuple[nn.Module, ...]]:
    """The innermost module around an attention module that has `count` layers, and those; none: there is none."""
    path = next(path for path, module in model.named_modules() if module is attention)
    while path:
        path = path.rpartition(".")[0]
        stack = model.get_submodule(path)
        layers = getattr(stack, "layers", None)
        blocks = tuple(layers.children()) if isinstance(layers, nn.Module) else ()
        if len(blocks) == count:
            return stack, blocks
    return attention, ()


def _attention_layers(attention: Sequence[nn.Module], blocks: Sequence[nn.Module]) -> tuple[AttentionLayer, ...]:
    """Of all attention modules; none where one of them is in none of `blocks`."""
    around = {module: block for block in blocks for module in block.modules()}
    found = [
        AttentionLayer(int(str(module.layer_idx)), module, around[module], "CrossAttention" in type(module).__name__)
        for module in attention
        if module in around
    ]
    return tuple(sorted(found, key=lambda layer: layer.index)) if len(found) == len(attention) else ()


def _runner(model: PreTrainedModel, stack: nn.Module) -> nn.Module:
    """The language model if the model's own `generate` hands over to it, else the model."""
    from transformers import GenerationMixin

    inner = getattr(model, "language_model", None)
    outer: nn.Module = model
    if type(model).generate is GenerationMixin.generate or not isinstance(inner, GenerationMixin):
        return outer
    return inner if isinstance(inner, nn.Module) and any(module is stack for module in inner.modules()) else outer
