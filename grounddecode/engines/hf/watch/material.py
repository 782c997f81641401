"""What a calibration is made of beside measurements: pictures, drawn or a folder's, and what follows from the depth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grounddecode import registry
from grounddecode.engines.images import PICTURES, open_image

if TYPE_CHECKING:
    from PIL.Image import Image

PUBLISHED_DEPTH = 32  # decoder layers of the models that published layer numbers are of


def ranges(n_layers: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """What follows from the depth, of every method that has such."""
    found = {name: registry.create(name).by_depth(n_layers) for name in registry.names()}
    return {name: given for name, given in found.items() if given}


def pictures(folder: Path | str | None, count: int, max_pixels: int, split: str) -> list[Image]:
    """The first `count` pictures of a folder by name; of a split of drawn scenes without one.

    Raises:
        ValueError: no such folder, or one without pictures.
    """
    if folder is None:
        from grounddecode.lab.world import scenes

        return [scene.image for scene in scenes(split, count)]
    if not Path(folder).is_dir():
        what = "is no folder" if Path(folder).exists() else "does not exist"
        raise ValueError(f"{str(folder)!r} {what}, give a folder of pictures")
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in PICTURES)[:count]
    if not found:
        raise ValueError(f"{str(folder)!r} holds no pictures ({', '.join(PICTURES)}), give a folder with some")
    return [open_image(path, max_pixels=max_pixels) for path in found]
