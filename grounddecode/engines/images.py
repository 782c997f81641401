"""Pictures as every engine reads them: RGB, upright."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps


def open_image(image: Path | Image.Image) -> Image.Image:
    """An RGB picture, turned as its EXIF data says. Raises ValueError when it cannot be read."""
    try:
        opened = image if isinstance(image, Image.Image) else Image.open(image)
        return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{image} is no readable image, give a PNG, JPEG or WebP file") from error
