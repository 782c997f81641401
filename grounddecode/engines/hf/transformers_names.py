"""Everything that is taken from transformers' insides by name, with why: the one file that follows its releases.

Names are looked for in what the installed release offers, never decided by its version number. One that is missing is
a sentence that says which name was not found in which version.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

# The keys and values read so far, an argument of a model's forward and a field of its output: how far a sequence is.
CACHE = ("cache", "past_key_values")  # the first since 5.24, the second before, and in code that is older
# The same argument of one decoder layer: a layer that is run once more must leave the cache alone.
LAYER_CACHE = (*CACHE, "past_key_value")
# Arguments of forward whose first dimension is no batch row, which a doubled batch must not double.
NOT_ROWS = frozenset({"cache_position", "logits_to_keep", *CACHE})
# Images that `generate` encoded before the first forward, which gets them in place of pixels (5.23 on).
ENCODED_IMAGES = "mm_encoder_outputs"


def version() -> str:
    import transformers

    return f"transformers {transformers.__version__}"


def missing(names: tuple[str, ...], owner: str) -> RuntimeError:
    """What is said of names that a release has no more."""
    wanted = " or ".join(repr(name) for name in names)
    return RuntimeError(
        f"{wanted} was not found in {owner} of {version()}, which grounddecode does not know, install a tested version"
    )


def require_cache_argument(forward: Callable[..., Any], owner: str) -> None:
    """Raise where `forward` takes the cache under no known name: every step would look like a first one."""
    given = inspect.signature(forward).parameters
    open_ended = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in given.values())  # says nothing of its names
    if not open_ended and not any(name in given for name in CACHE):
        raise missing(CACHE, f"the arguments of {owner}.forward")


def given_cache(kwargs: dict[str, Any]) -> Any:
    """The cache among the arguments of a forward, None if there is none."""
    return next((kwargs[name] for name in CACHE if kwargs.get(name) is not None), None)


def with_cache(kwargs: dict[str, Any], cache: Any) -> dict[str, Any]:
    """Arguments of a forward with another cache in the place of theirs."""
    name = next((name for name in CACHE if kwargs.get(name) is not None), None)
    return kwargs if name is None else kwargs | {name: cache}


def without_cache(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a decoder layer that shall neither read nor write a cache."""
    return {name: None if name in LAYER_CACHE else value for name, value in kwargs.items() if name != "use_cache"} | (
        {"use_cache": False} if "use_cache" in kwargs else {}
    )


def cached_tokens(cache: Any) -> int:
    """How many tokens of every row a cache holds."""
    if not hasattr(cache, "get_seq_length"):
        raise missing(("get_seq_length",), type(cache).__name__)
    return int(cache.get_seq_length())


def brings_images(kwargs: dict[str, Any]) -> bool:
    """Whether a forward is given images: pixels, encoded ones, or embeddings that hold them already."""
    names = [name for name, value in kwargs.items() if value is not None]
    return any(name in (ENCODED_IMAGES, "inputs_embeds") or "pixel" in name for name in names)
