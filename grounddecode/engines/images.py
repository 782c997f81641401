"""Pictures as every engine reads them: RGB, upright, of a size that was looked at before anything was decoded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 50_000_000
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # how the names end that are taken for pictures in a folder
LONGEST = 160  # characters of a decoder's complaint
_DRAWINGS = ("EPS", "WMF")  # pillow hands them to other programs of the machine
_VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_WITH_ALPHA = ("LA", "PA", "RGBA")
_WIDE = ("I", "F")
_FROM_SIXTEEN_BITS = ("PNG", "PPM")  # formats whose mode "I" is 16 bits wide in every version of pillow
_RANGES = (1, 255, 65535)  # where the values of pictures usually end
_lock = threading.Lock()


class _RefusedError(ValueError):
    """A sentence that needs no further word."""


def open_image(image: Path | Image.Image, *, max_pixels: int | None = None, side: int | None = None) -> Image.Image:
    """An RGB picture, turned as its EXIF data says; the first frame of several.

    What is transparent has white behind it. Grey values of more than 8 bits are scaled, not clipped: those of 16 bits
    by their full range; those of 32 bits by the smallest of 0..1 (real numbers alone), 0..255 and 0..65535 that holds
    all of them, else from the least to the greatest. A value that is not finite is black.

    Args:
        max_pixels: a picture of more is refused on what its header says; None is 50 million.
        side: pixels that are enough for either side; a JPEG file is decoded at a half, quarter or eighth of its size if
            both sides still have as many. None decodes all.

    Raises:
        ValueError: a file that is missing, too large or broken, whatever its decoder says; the sentence names it.
    """
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        if isinstance(image, Image.Image):
            return _rgb(image, image, max_pixels)
        with _header(image) as opened:
            _refuse_more(image, opened, max_pixels)
            if opened.format in _DRAWINGS:
                raise _RefusedError(f"{image} is a drawing ({opened.format}), convert it to PNG or JPEG")
            if side is not None:
                opened.draft("RGB", (side, side))
            return _rgb(image, opened, max_pixels)
    except _RefusedError as refused:
        raise ValueError(str(refused)) from None
    except FileNotFoundError:
        raise ValueError(f"{image} does not exist, give the path of a picture") from None
    except Exception as error:  # decoders raise anything: AttributeError, RuntimeError, MemoryError, ...
        if isinstance(image, Path) and image.suffix.lower() in _VIDEOS:
            raise ValueError(
                f"{image} is a video, and videos are not supported: give frames of it as pictures"
            ) from None
        why = _reason(error)
        raise ValueError(f"{_named(image)} is no readable image ({why}), give a PNG, JPEG or WebP file") from error


def _header(path: Path) -> Image.Image:
    """The file, opened and not decoded.

    Pillow's own limit is one of the whole process, lower than a user may want, and only warns at first: it is off while
    a header is read, and on again before anything is decoded.
    """
    with _lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _refuse_more(image: Path | Image.Image, opened: Image.Image, max_pixels: int) -> None:
    if opened.width * opened.height > max_pixels:
        told = f"{_named(image)} has {opened.width} x {opened.height} pixels"
        raise _RefusedError(f"{told}, more than {max_pixels:,}: make it smaller or raise max_pixels")


def _rgb(image: Path | Image.Image, opened: Image.Image, max_pixels: int) -> Image.Image:
    _refuse_more(image, opened, max_pixels)
    sixteen = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in _FROM_SIXTEEN_BITS)
    upright = ImageOps.exif_transpose(opened)
    _refuse_more(image, upright, max_pixels)  # a container may hold more than its header says
    if sixteen or upright.mode in _WIDE:
        return _narrow(upright, sixteen).convert("RGB")
    upright = upright.convert(_PREMULTIPLIED.get(upright.mode, upright.mode))
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        ground = Image.new("RGBA", upright.size, "white")
        ground.alpha_composite(upright.convert("RGBA"))
        upright = ground
    return upright.convert("RGB")


def _narrow(wide: Image.Image, sixteen: bool) -> Image.Image:
    """Grey values of 16 or 32 bits as 8."""
    values: NDArray[Any] = np.asarray(wide).astype(np.float64 if wide.mode == "I" else np.float32)
    low, high = (0.0, float(_RANGES[-1])) if sixteen else _range(values, whole=wide.mode == "I")
    scaled = (values - low) * 255 / (high - low) if high > low else values - low
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0)
    return Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))


def _range(values: NDArray[Any], *, whole: bool) -> tuple[float, float]:
    """Least and greatest value that there may be, as `open_image` says."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 0.0
    low, high = float(finite.min()), float(finite.max())
    for end in _RANGES[1:] if whole else _RANGES:
        if low >= 0 and high <= end:
            return 0.0, float(end)
    return low, high


def _named(image: Path | Image.Image) -> str:
    return "the picture" if isinstance(image, Image.Image) else str(image)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "of no known format"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text[:LONGEST] or type(error).__name__
