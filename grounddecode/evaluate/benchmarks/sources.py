"""Where samples come from, the same for every benchmark: the folder that a user has, or the lab's scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grounddecode.evaluate.benchmarks.base import Wanted
from grounddecode.evaluate.data.items import Item
from grounddecode.evaluate.sample import LAB, drawn
from grounddecode.registry import nearest

if TYPE_CHECKING:
    from grounddecode.lab.world import Scene

CAPTION_PROMPT = "Describe this image in detail."
CAPTION_TOKENS, ANSWER_TOKENS = 512, 16
LAB_CAPTION_TOKENS, LAB_ANSWER_TOKENS = 60, 8
LAB_IMAGES = 500  # as many as papers take for CHAIR and POPE


def root_of(wanted: Wanted) -> Path:
    """The folder of the data. Raises ValueError where there is none."""
    if wanted.root is None or not wanted.root.is_dir():
        raise ValueError(f"the data folder {str(wanted.root)!r} does not exist: give the one that holds the benchmarks")
    return wanted.root


def place_of(item: Item, root: Path, benchmark: str) -> Path:
    """Where an item lies. Raises ValueError where it does not."""
    found = item.find(root)
    if found is None:
        raise ValueError(f"{root / item.places[0]} is missing: see `grounddecode data check {benchmark} --root {root}`")
    return found


def require_pictures(folder: Path, names: Sequence[str], benchmark: str) -> None:
    """Raises ValueError where the folder lacks some."""
    missing = [name for name in dict.fromkeys(names) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} pictures of {benchmark} are not in {folder}, such as {missing[0]}: "
            f"see `grounddecode data check {benchmark}`"
        )


def scenes(wanted: Wanted, count: int = LAB_IMAGES) -> list[Scene]:
    """The first scenes of the wanted split of the lab."""
    from grounddecode.lab.world import SPLITS

    if wanted.split not in SPLITS:
        raise ValueError(nearest(wanted.split, SPLITS, "split of the lab"))
    return [drawn(seed) for seed in SPLITS[wanted.split][:count]]


def picture_of(seed: int) -> str:
    """How a sample names the picture of a scene."""
    return f"{LAB}{seed}"
