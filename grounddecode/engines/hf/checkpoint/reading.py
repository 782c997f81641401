"""The processor of a model that is at hand without it: what reads text and pictures for the checkpoint it came from."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


def processor_of(model: Any, what: str) -> Any:
    """The processor that belongs to a model's checkpoint, from its folder or the local cache; nothing is downloaded.

    Args:
        what: what it is wanted for, to begin the sentence with if there is none.

    Raises:
        ValueError: a model that came from no checkpoint, or from one without a processor.
    """
    name = str(getattr(model, "name_or_path", "") or "")
    try:
        if not name:
            raise ValueError("the model came from no checkpoint")
        return _processor(name)
    except Exception as error:  # a damaged file makes libraries raise anything
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{what} was not found ({reason}), load the model with from_pretrained or give ids") from error


@lru_cache(maxsize=4)
def _processor(name: str) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(name, local_files_only=True)
