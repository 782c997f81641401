"""The lab: a drawn world with COCO annotations and a small LLaVA trained on it; nothing is downloaded."""

import json
from pathlib import Path
from typing import Any

CHECKPOINTS = ("seed0", "seed1", "seed2", "clean")
#: The second lab's: trained so that attention sinks can emerge, on fuller pictures.
SECOND = tuple(f"lab2-{name}" for name in CHECKPOINTS)

__all__ = ["CHECKPOINTS", "SECOND", "checkpoint", "drawn_split", "load", "name_of"]


def name_of(model: str) -> str | None:
    """The checkpoint that a model's name stands for: "lab", "lab:NAME", "lab2" or "lab2:NAME"; None for others.

    Example:
        >>> name_of("lab"), name_of("lab2:clean"), name_of("org/model")
        ('seed0', 'lab2-clean', None)
    """
    lab, _, name = model.partition(":")
    return {"lab": "", "lab2": "lab2-"}[lab] + (name or "seed0") if lab in ("lab", "lab2") else None


def drawn_split(model: str, split: str) -> str:
    """The split of drawn scenes that suits a model: the second lab's models see their own world.

    A folder's training.json says which world it was trained on; other models see the first lab's.

    Example:
        >>> drawn_split("lab2:seed1", "evaluation"), drawn_split("lab", "evaluation")
        ('evaluation2', 'evaluation')
    """
    if split not in ("train", "calibration", "evaluation"):
        return split
    name = name_of(model)
    world = _world_of(Path(model)) if name is None else 2 if name.startswith("lab2-") else 1
    return split if world == 1 else f"{split}{world}"


def _world_of(folder: Path) -> int:
    """The world that the checkpoint in a folder was trained on: 1 for what is none of the lab's."""
    try:
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        world = record.get("world", record.get("lab", 1))
    except (OSError, ValueError, AttributeError):
        return 1
    return world if world in (2, 3) else 1


def checkpoint(name: str = "seed0") -> Path:
    """Folder of a shipped checkpoint, loadable by Hugging Face and vLLM alike.

    `seed0` is the lab model; `seed1` and `seed2` differ in the training seed alone; `clean` is seed 0's twin, with the
    same vision tower, trained on captions without guessed objects. `lab2-seed0` and so on are the second lab's.
    Raises ValueError for another name or one that is not installed.
    """
    names = SECOND if name.startswith("lab2-") else CHECKPOINTS
    if name not in names:
        raise ValueError(f"The lab checkpoint was {name!r}; use one of {', '.join(names)}.")
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
