"""Everything that is taken from transformers' insides by name, with why: the one file that follows its releases.

Names are looked for in what is installed, never decided by a version number. One that is missing is a sentence that
says which name was not found in which version.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

# -- forward and its arguments ---------------------------------------------------------------------------------------
# The keys and values read so far, an argument of a model's forward: how far a sequence is.
CACHE = ("cache", "past_key_values")  # the first since 5.24, the second before, and in code that is older
# The same argument of one decoder layer: a layer that is run once more must leave the cache alone.
LAYER_CACHE = (*CACHE, "past_key_value")
# Arguments whose first dimension is no batch row, which a doubled batch must not double.
COLUMNS = "cache_position"  # of the cache, that new tokens are written to, where a release passes them
LOGITS = "logits_to_keep"  # of how many of the newest tokens, or which columns
NOT_ROWS = frozenset({COLUMNS, LOGITS, *CACHE})
# Images and videos that `generate` encoded before the first forward, which gets them in place of pixels (5.19 on).
ENCODED = "mm_encoder_outputs"
_PIXELS = ("pixel_values", "image_pixel_values", "pixel_values_images")
# Where the first dimension of pixel values is that of patches: (pictures, 3) how many of them in time, height, width.
GRIDS = "image_grid_thw"
# Pixels of videos: no method knows which of their tokens belong to which picture.
VIDEO = "pixel_values_videos"
# Where tokens stand, for rotary embeddings; (rows, tokens), or with 3 or 4 axes of such in front.
POSITIONS = "position_ids"
# Which tokens are images, or see what follows them; one entry a token of the prompt.
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
# Arguments of a forward that say how to run, not what is read.
NO_INPUTS = (LOGITS, "return_dict", "output_attentions", "output_hidden_states")
# Rows of a model's output that belong to the batch, beside its logits.
_, WEIGHTS = ROW_OUTPUTS = ("hidden_states", "attentions")
# Features that Qwen3-VL and its like add again in early layers, and where.
DEEPSTACK, DEEPSTACK_PLACES = "deepstack_visual_embeds", "visual_pos_masks"

# -- generate --------------------------------------------------------------------------------------------------------
# `generate` reads the prompt in pieces; some releases give the images to none of them.
CHUNK = "prefill_chunk_size"
CACHE_KIND, NO_COMPILE = "cache_implementation", "disable_compile"  # static ones make `generate` compile by itself
# Ways to generate with a paged cache, whose loop swallows what an attention function raises.
CONTINUOUS_BATCHING = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")

# -- what an attention function is given -----------------------------------------------------------------------------
SCALING, SOFT_CAP, WINDOW, WANTS_WEIGHTS = "scaling", "softcap", "sliding_window", "output_attentions"
LEARNT_SINKS = "s_aux"  # a further column of the softmax, which rows computed here would leave out
PAGED = "cache"  # the paged cache, which continuous batching hands on to the kernel
BLOCK_MASKS = ("flex_attention",)  # kernels whose masks are no tensors: rows cannot be computed beside them
BOTH_WAYS = "use_bidirectional_attention"  # of a decoder's configuration: tokens look at later ones
DROPOUT, BIAS = "dropout", "position_bias"  # what changes the base kernel beside the mask
OWN_SDPA = ("transformers.integrations.sdpa_attention", "sdpa_attention_forward")  # torch's
PACKED = "cu_seq_lens_q"  # where pictures that lie behind each other in one row begin, for flash kernels

# -- modules ---------------------------------------------------------------------------------------------------------
# The feed-forward network of a decoder layer, by its first and last module, and the norm that may stand behind it.
_FEED_FORWARDS = (*((x, x) for x in ("mlp", "feed_forward", "block_sparse_moe")), ("fc1", "fc2"))
_BEHIND_FEED_FORWARD = ("post_feedforward_layernorm", "post_mlp_layernorm")
# What turns pixels into hidden states, an attribute of the model behind the head.
VISION_TOWERS = ("vision_tower", "visual", "vision_model")
# The norm between the last decoder layer and the unembedding.
_FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "embedding_norm")
# What is done to the output of the unembedding: times (Cohere), divided by (Granite), softly capped (Gemma 2).
LOGIT_SCALE, LOGIT_DIVISOR, LOGIT_CAP = "logit_scale", "logits_scaling", "final_logit_softcapping"
# What turns pixels into features: called once, its result is replayed to the second stream.
IMAGE_FEATURES = "get_image_features"
# Set on every layer by `gradient_checkpointing_enable`: the layer is computed a second time in the backward pass.
CHECKPOINTING = "gradient_checkpointing"
CACHE_ROWS, CACHE_LAYERS = "max_batch_size", "layers"  # that a static cache layer was made with; of a cache
USUAL_LAYER, FIXED_LAYER = "DynamicLayer", "StaticLayer"  # of a cache, keep every token; others: a window, other states
# What layers of a cache have that end somewhere, and whose keys are in fewer bits; what a cache says that moves them.
ROOM, QUANTISED, OFFLOADING = "max_cache_len", ("nbits", "_quantized_keys"), "offloading"
TOKENS_SEEN = "cumulative_length"  # by a cache layer that keeps only the newest ones
_OFFSETS = "rope_deltas"
_WAIT = "TIME_OUT_REMOTE_CODE"  # seconds that an answer is waited for
_VIDEO_TOKEN = ("video_token_id", "video_token_index")


def missing(names: Iterable[str], owner: str) -> RuntimeError:
    """What is said of names that this release has no more."""
    import transformers

    wanted = " or ".join(repr(name) for name in names)
    return RuntimeError(
        f"{wanted} was not found in {owner} of transformers {transformers.__version__}, install a version that "
        "grounddecode was tested with"
    )


def found(owner: object, name: str) -> Any:
    """An attribute of something of transformers'."""
    if not hasattr(owner, name):
        raise missing([name], owner.__name__ if isinstance(owner, type) else type(owner).__name__)
    return getattr(owner, name)


# -- the cache -------------------------------------------------------------------------------------------------------
def require_cache_argument(forward: Callable[..., Any], owner: str) -> None:
    """Raise where `forward` takes the cache under no known name: every step would look like a first one."""
    given = inspect.signature(forward).parameters
    says_nothing = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in given.values())
    if not says_nothing and not any(name in given for name in CACHE):
        raise missing(CACHE, f"{owner}.forward")


def given_cache(kwargs: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a forward, None if there is none."""
    return next((kwargs[name] for name in CACHE if kwargs.get(name) is not None), None)


def with_cache(kwargs: dict[str, Any], cache: Any) -> dict[str, Any]:
    """Arguments of a forward with another cache in the place of theirs."""
    return kwargs | {name: cache for name in CACHE if kwargs.get(name) is not None}


def with_own_cache(kwargs: dict[str, Any], model: Any, text: Any) -> dict[str, Any]:
    """Arguments of a forward that brings no cache and would make one: with the one `generate` would give it.

    `text`: the configuration of the decoder. So that the cache is known before the forward.
    """
    asked = kwargs.get("use_cache")
    wanted = getattr(text, "use_cache", True) if asked is None else asked
    makes = getattr(model, "_supports_default_dynamic_cache", None)
    if not wanted or given_cache(kwargs) is not None or makes is None or not makes():
        return kwargs
    from transformers import DynamicCache

    name = next((name for name in CACHE if name in inspect.signature(type(model).forward).parameters), None)
    if name is None:  # forward takes it among others: by the name that outputs have
        from transformers.modeling_outputs import CausalLMOutputWithPast

        name = next(name for name in CACHE if hasattr(CausalLMOutputWithPast(), name))
    return kwargs | {name: DynamicCache(config=text)}


def without_cache(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a decoder layer that shall neither read nor write a cache."""
    off = dict.fromkeys(LAYER_CACHE) | {"use_cache": False}
    return {name: off.get(name, value) for name, value in kwargs.items()}


def cached_tokens(cache: Any) -> int:
    """How many tokens of every row a cache holds."""
    return int(found(cache, "get_seq_length")())


def cache_layers(cache: Any) -> list[Any]:
    """One object a decoder layer, which keeps the tensors of its rows as attributes."""
    return list(found(cache, CACHE_LAYERS))


# -- prompts ---------------------------------------------------------------------------------------------------------
def brings_images(kwargs: Mapping[str, Any]) -> bool:
    """Whether a forward is given images: pixels, encoded ones, or embeddings that hold them already."""
    return brings_pixels(kwargs) or kwargs.get("inputs_embeds") is not None


def brings_pixels(kwargs: Mapping[str, Any]) -> bool:
    return bool(kwargs.get(ENCODED)) or any("pixel" in name and kwargs[name] is not None for name in kwargs)


def brings_video(kwargs: Mapping[str, Any]) -> bool:
    encoded = kwargs.get(ENCODED) or {}
    return kwargs.get(VIDEO) is not None or encoded.get("video") is not None


def is_pixels(name: str, value: Any) -> bool:
    return name in _PIXELS and isinstance(value, Tensor)


def expanded(model: Any, encoded: Any, ids: Tensor, copies: int) -> Any:
    """Encoded images of prompts with these ids for `copies` rows of each, as beam search wants them."""
    return encoded if copies == 1 else found(model, "_expand_multimodal_outputs")(ids, encoded, expand_size=copies)


def video_token(config: Any) -> int | None:
    """Id of the token that stands for a piece of a video; that of images is `layout.image_token_id`'s."""
    holders = (config, getattr(config, "vision_config", None))
    ids = (getattr(holder, name, None) for holder in holders for name in _VIDEO_TOKEN)
    return next((int(value) for value in ids if value is not None), None)


# -- modules ---------------------------------------------------------------------------------------------------------
def rotary_offsets(module: nn.Module) -> Tensor | None:
    """(rows, 1): how far multimodal rotary positions run ahead of the columns; the model keeps them between steps."""
    return getattr(module, _OFFSETS, None)


def set_rotary_offsets(module: nn.Module, offsets: Tensor | None) -> None:
    setattr(module, _OFFSETS, offsets)


def attention_registry() -> dict[str, Any]:
    """Attention functions by name, common to all models: what a kernel's name stands for."""
    from transformers.modeling_utils import AttentionInterface

    return cast("dict[str, Any]", found(AttentionInterface, "_global_mapping"))


def own_eager_attention(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The eager attention of the module's own file, which no registry holds: it keeps soft caps and learnt sinks."""
    name, file = "eager_attention_forward", sys.modules[type(module).__module__]
    if not hasattr(file, name):
        raise missing([name], file.__name__)
    return cast("Callable[..., tuple[Tensor, Tensor | None]]", getattr(file, name))


def feed_forward(block: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """What reads the input of a decoder layer's feed-forward network, and what gives what the residual is added to."""
    for first, last in _FEED_FORWARDS:
        if isinstance(getattr(block, first, None), nn.Module):
            norms = (getattr(block, name, None) for name in _BEHIND_FEED_FORWARD)
            behind = next((norm for norm in norms if isinstance(norm, nn.Module)), None)
            return getattr(block, first), behind or getattr(block, last)
    return None


def final_norm(stack: nn.Module) -> nn.Module | None:
    norms = (getattr(stack, name, None) for name in _FINAL_NORMS)
    return next((norm for norm in norms if isinstance(norm, nn.Module)), None)


def logit_setting(model: Any, text: Any, name: str) -> float | None:
    """A setting of what is done to the output of the unembedding, if the module that owns it does so.

    The decoder's configuration has it also where a model around it does without, as some do in some releases.
    """
    head = model.get_output_embeddings()
    owner = next((m for m in model.modules() if any(child is head for child in m.children())), model)
    code = inspect.unwrap(type(owner).forward).__code__
    return getattr(text, name, None) if name in (*code.co_names, *code.co_consts) else None


def shares_keys(attention: nn.Module) -> bool:
    """Whether an attention module reads the keys of an earlier layer (Gemma 3n and 4)."""
    return bool(getattr(attention, "is_kv_shared_layer", False))


def layer_kind(attention: nn.Module) -> object:
    """Sliding or full: modules of one kind share keys among themselves."""
    return getattr(attention, "layer_type", getattr(attention, "is_sliding", None))


def checkpoints(block: nn.Module) -> bool:
    """Whether a decoder layer, or one that this is wrapped around, is now computed anew in the backward pass."""
    return any(module.training and getattr(module, CHECKPOINTING, False) for module in block.modules())


# -- generate while it runs ------------------------------------------------------------------------------------------
# Looked up on the instance before the loop, from 5.19 on: turns pixels into features.
ENCODE = "_prepare_multimodal_encoder_kwargs_for_generation"


def decoding_loops(kind: type) -> list[str]:
    """Methods of a model class that `generate` hands its prepared arguments to (the other ways are repositories)."""
    from transformers.generation import utils

    table = found(utils, "GENERATION_MODES_MAPPING")
    loops = sorted({name for name in table.values() if "/" not in name})
    for name in loops:
        found(kind, name)
    return loops


def copies(config: Any) -> int:
    """Rows that `generate` makes of each prompt, for beams and further answers, before its loop begins."""
    return max(int(getattr(config, name, None) or 1) for name in ("num_beams", "num_return_sequences"))


# -- loading ---------------------------------------------------------------------------------------------------------
@contextmanager
def asking_nothing() -> Iterator[None]:
    """Nobody is asked on standard input whether to run a model's own code: who was not told so may not.

    Not every path passes `trust_remote_code` on; where it is missing the library asks, unless it may wait no second.
    """
    from transformers import dynamic_module_utils as modules

    waits = found(modules, _WAIT)
    setattr(modules, _WAIT, 0)
    try:
        yield
    finally:
        setattr(modules, _WAIT, waits)


def own_settings(image_processor: Any) -> frozenset[str] | None:
    """Settings that an image processor has beyond those of all (tiles, numbers of pixels); None where it says none."""
    from transformers.processing_utils import ImagesKwargs

    settings = getattr(image_processor, "valid_kwargs", None)
    if settings is None:
        return None
    return frozenset(getattr(settings, "__annotations__", ())) - frozenset(ImagesKwargs.__annotations__)
