"""What the cache of a model takes, from its configuration alone."""

from __future__ import annotations

from typing import Any

MIB = 2**20


def bytes_per_token(config: Any, size: int | None = None) -> int:
    """Bytes that keys and values of one token take in all layers.

    Layers that keep a window of tokens only, or none, are counted as if they kept all: it is what is needed at most.

    Args:
        config: of the whole model.  size: bytes of a number; by default as the checkpoint was saved.
    """
    text = config.get_text_config(decoder=True)
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = size or (4 if "32" in str(getattr(config, "dtype", "")) else 2)
    return int(2 * text.num_hidden_layers * heads * width * size)
