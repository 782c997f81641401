"""The lab: a drawn world with COCO annotations and a small LLaVA trained on it; nothing is downloaded."""

from pathlib import Path
from typing import Any

CHECKPOINTS = ("seed0", "seed1", "seed2", "clean")

__all__ = ["CHECKPOINTS", "checkpoint", "load"]


def checkpoint(name: str = "seed0") -> Path:
    """Folder of a shipped checkpoint, loadable by Hugging Face and vLLM alike.

    `seed0` is the lab model; `seed1` and `seed2` differ in the training seed alone; `clean` is seed 0's twin, with the
    same vision tower, trained on captions without guessed objects.
    Raises ValueError for another name or one that is not installed.
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"The lab checkpoint was {name!r}; use one of {', '.join(CHECKPOINTS)}.")
    folder = Path(__file__).parent / "checkpoints" / name
    if not (folder / "model.safetensors").is_file():
        cure = "train it with `python -m grounddecode.lab.train`"
        raise ValueError(f"The lab checkpoint {name!r} is not installed; {cure}.")
    return folder


def load(name: str = "seed0", dtype: Any = None, attn_implementation: str = "sdpa") -> tuple[Any, Any]:
    """`LlavaForConditionalGeneration` in evaluation mode and its `LlavaProcessor`; float32 unless `dtype` is given."""
    import torch

    from grounddecode.lab.model import load_checkpoint

    return load_checkpoint(checkpoint(name), dtype or torch.float32, attn_implementation)
