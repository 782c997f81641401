"""The drawings of the lab world: every category is a short list of primitives in unit coordinates."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Array = npt.NDArray[np.uint8]
Primitive = tuple[str, str, tuple[float, ...]]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 46, 42),
    "blue": (46, 92, 200),
    "green": (44, 148, 66),
    "yellow": (236, 196, 44),
    "purple": (142, 60, 168),
    "white": (238, 238, 236),
}

_SUPERSAMPLING = 4

# (shape, tone, coordinates). Tones: m = the object's colour, d = darker, l = lighter, k = near black, w = near white,
# g = grey, s = skin, b = wood, r = signal red, y = signal yellow, e = signal green.
# Shapes: rect and oval take a box, poly a ring of points, line a polyline with its width first.
_DRAWINGS: dict[str, list[Primitive]] = {
    "man": [
        ("oval", "s", (0.36, 0.02, 0.64, 0.28)),
        ("poly", "k", (0.34, 0.16, 0.36, 0.04, 0.5, 0.0, 0.64, 0.04, 0.66, 0.14, 0.5, 0.09)),
        ("rect", "m", (0.3, 0.28, 0.7, 0.62)),
        ("rect", "d", (0.18, 0.3, 0.3, 0.6)),
        ("rect", "d", (0.7, 0.3, 0.82, 0.6)),
        ("rect", "k", (0.32, 0.62, 0.47, 1.0)),
        ("rect", "k", (0.53, 0.62, 0.68, 1.0)),
    ],
    "woman": [
        ("oval", "b", (0.3, 0.0, 0.7, 0.36)),
        ("oval", "s", (0.37, 0.04, 0.63, 0.3)),
        ("poly", "m", (0.38, 0.3, 0.62, 0.3, 0.84, 0.8, 0.16, 0.8)),
        ("line", "s", (0.08, 0.36, 0.36, 0.18, 0.58)),
        ("line", "s", (0.08, 0.64, 0.36, 0.82, 0.58)),
        ("rect", "s", (0.36, 0.8, 0.46, 1.0)),
        ("rect", "s", (0.54, 0.8, 0.64, 1.0)),
    ],
    "dog": [
        ("oval", "m", (0.2, 0.4, 0.8, 0.72)),
        ("oval", "m", (0.62, 0.16, 0.96, 0.5)),
        ("poly", "d", (0.64, 0.2, 0.56, 0.48, 0.72, 0.38)),
        ("line", "m", (0.07, 0.22, 0.5, 0.06, 0.24)),
        ("rect", "d", (0.24, 0.62, 0.34, 0.96)),
        ("rect", "d", (0.64, 0.62, 0.74, 0.96)),
        ("oval", "k", (0.88, 0.3, 1.0, 0.42)),
    ],
    "cat": [
        ("oval", "m", (0.24, 0.44, 0.76, 1.0)),
        ("oval", "m", (0.26, 0.14, 0.74, 0.56)),
        ("poly", "d", (0.28, 0.26, 0.26, 0.0, 0.46, 0.16)),
        ("poly", "d", (0.72, 0.26, 0.74, 0.0, 0.54, 0.16)),
        ("oval", "k", (0.36, 0.28, 0.44, 0.38)),
        ("oval", "k", (0.56, 0.28, 0.64, 0.38)),
        ("line", "d", (0.08, 0.74, 0.9, 0.94, 0.8, 0.92, 0.56)),
    ],
    "bird": [
        ("oval", "m", (0.14, 0.34, 0.72, 0.72)),
        ("oval", "m", (0.56, 0.16, 0.86, 0.46)),
        ("poly", "y", (0.84, 0.24, 1.0, 0.32, 0.84, 0.38)),
        ("poly", "d", (0.26, 0.44, 0.58, 0.44, 0.2, 0.16)),
        ("poly", "d", (0.18, 0.5, 0.0, 0.36, 0.02, 0.62)),
        ("line", "k", (0.05, 0.42, 0.7, 0.42, 0.94)),
        ("line", "k", (0.05, 0.54, 0.7, 0.54, 0.94)),
    ],
    "car": [
        ("poly", "d", (0.2, 0.5, 0.32, 0.24, 0.68, 0.24, 0.82, 0.5)),
        ("poly", "w", (0.3, 0.48, 0.37, 0.31, 0.63, 0.31, 0.71, 0.48)),
        ("rect", "m", (0.02, 0.46, 0.98, 0.74)),
        ("oval", "k", (0.12, 0.6, 0.38, 0.88)),
        ("oval", "k", (0.62, 0.6, 0.88, 0.88)),
        ("oval", "g", (0.2, 0.68, 0.3, 0.8)),
        ("oval", "g", (0.7, 0.68, 0.8, 0.8)),
    ],
    "bicycle": [
        ("ring", "k", (0.0, 0.44, 0.42, 0.88)),
        ("ring", "k", (0.58, 0.44, 1.0, 0.88)),
        ("line", "m", (0.08, 0.2, 0.66, 0.38, 0.36, 0.72, 0.36, 0.48, 0.66, 0.2, 0.66)),
        ("line", "m", (0.08, 0.8, 0.66, 0.7, 0.2, 0.58, 0.2)),
        ("line", "m", (0.08, 0.48, 0.66, 0.36, 0.28)),
        ("rect", "k", (0.26, 0.22, 0.46, 0.3)),
    ],
    "traffic light": [
        ("rect", "g", (0.44, 0.74, 0.56, 1.0)),
        ("rect", "m", (0.26, 0.0, 0.74, 0.78)),
        ("rect", "k", (0.33, 0.05, 0.67, 0.73)),
        ("oval", "r", (0.38, 0.07, 0.62, 0.27)),
        ("oval", "y", (0.38, 0.29, 0.62, 0.49)),
        ("oval", "e", (0.38, 0.51, 0.62, 0.71)),
    ],
    "stop sign": [
        ("rect", "g", (0.45, 0.6, 0.55, 1.0)),
        ("poly", "m", (0.34, 0.02, 0.66, 0.02, 0.88, 0.22, 0.88, 0.48, 0.66, 0.68, 0.34, 0.68, 0.12, 0.48, 0.12, 0.22)),
        ("rect", "w", (0.22, 0.28, 0.78, 0.42)),
        ("rect", "k", (0.3, 0.32, 0.7, 0.38)),
    ],
    "fire hydrant": [
        ("oval", "m", (0.3, 0.04, 0.7, 0.4)),
        ("rect", "m", (0.32, 0.24, 0.68, 0.9)),
        ("rect", "d", (0.14, 0.4, 0.86, 0.58)),
        ("oval", "l", (0.4, 0.4, 0.6, 0.6)),
        ("rect", "d", (0.22, 0.86, 0.78, 1.0)),
        ("rect", "d", (0.26, 0.24, 0.74, 0.31)),
    ],
    "bench": [
        ("rect", "m", (0.02, 0.28, 0.98, 0.38)),
        ("rect", "m", (0.02, 0.42, 0.98, 0.52)),
        ("rect", "d", (0.0, 0.6, 1.0, 0.7)),
        ("rect", "k", (0.1, 0.28, 0.16, 0.96)),
        ("rect", "k", (0.84, 0.28, 0.9, 0.96)),
    ],
    "umbrella": [
        ("line", "k", (0.06, 0.5, 0.06, 0.5, 0.9, 0.42, 0.98, 0.34, 0.9)),
        ("half", "m", (0.02, 0.06, 0.98, 1.0)),
        ("poly", "l", (0.5, 0.06, 0.34, 0.53, 0.66, 0.53)),
    ],
    "kite": [
        ("poly", "m", (0.5, 0.0, 0.86, 0.34, 0.5, 0.72, 0.14, 0.34)),
        ("poly", "l", (0.5, 0.0, 0.86, 0.34, 0.5, 0.34)),
        ("poly", "d", (0.5, 0.72, 0.14, 0.34, 0.5, 0.34)),
        ("line", "k", (0.04, 0.5, 0.72, 0.4, 0.82, 0.56, 0.9, 0.46, 1.0)),
    ],
    "frisbee": [
        ("oval", "m", (0.04, 0.3, 0.96, 0.72)),
        ("oval", "d", (0.18, 0.36, 0.82, 0.62)),
        ("oval", "l", (0.3, 0.4, 0.7, 0.56)),
    ],
    "refrigerator": [
        ("rect", "m", (0.2, 0.0, 0.8, 0.98)),
        ("rect", "d", (0.2, 0.34, 0.8, 0.39)),
        ("rect", "k", (0.27, 0.12, 0.33, 0.3)),
        ("rect", "k", (0.27, 0.45, 0.33, 0.72)),
        ("rect", "l", (0.6, 0.06, 0.74, 0.28)),
    ],
    "oven": [
        ("rect", "m", (0.06, 0.1, 0.94, 0.98)),
        ("rect", "k", (0.16, 0.44, 0.84, 0.88)),
        ("rect", "y", (0.24, 0.54, 0.76, 0.8)),
        ("oval", "w", (0.14, 0.16, 0.28, 0.3)),
        ("oval", "w", (0.43, 0.16, 0.57, 0.3)),
        ("oval", "w", (0.72, 0.16, 0.86, 0.3)),
    ],
    "bowl": [
        ("lower", "m", (0.04, 0.0, 0.96, 0.86)),
        ("oval", "d", (0.04, 0.34, 0.96, 0.54)),
        ("rect", "d", (0.34, 0.84, 0.66, 0.92)),
    ],
    "cup": [
        ("ring", "d", (0.56, 0.28, 1.0, 0.72)),
        ("poly", "m", (0.1, 0.16, 0.76, 0.16, 0.7, 0.92, 0.16, 0.92)),
        ("oval", "l", (0.1, 0.08, 0.76, 0.26)),
        ("oval", "b", (0.18, 0.12, 0.68, 0.23)),
    ],
    "spoon": [
        ("oval", "m", (0.3, 0.0, 0.7, 0.44)),
        ("oval", "l", (0.38, 0.06, 0.6, 0.34)),
        ("rect", "d", (0.45, 0.42, 0.55, 1.0)),
    ],
    "knife": [
        ("poly", "w", (0.44, 0.0, 0.62, 0.12, 0.62, 0.62, 0.44, 0.62)),
        ("poly", "g", (0.56, 0.08, 0.62, 0.12, 0.62, 0.62, 0.56, 0.62)),
        ("rect", "m", (0.42, 0.6, 0.64, 1.0)),
        ("oval", "k", (0.48, 0.68, 0.58, 0.76)),
    ],
    "banana": [
        ("poly", "m", (0.08, 0.2, 0.2, 0.16, 0.3, 0.48, 0.54, 0.68, 0.9, 0.7, 0.94, 0.8, 0.6, 0.92, 0.26, 0.74)),
        ("line", "d", (0.05, 0.18, 0.3, 0.3, 0.58, 0.56, 0.78, 0.88, 0.78)),
        ("rect", "k", (0.06, 0.1, 0.2, 0.22)),
    ],
    "apple": [
        ("oval", "m", (0.06, 0.24, 0.62, 0.96)),
        ("oval", "m", (0.38, 0.24, 0.94, 0.96)),
        ("line", "b", (0.07, 0.5, 0.3, 0.54, 0.06)),
        ("poly", "e", (0.54, 0.2, 0.7, 0.04, 0.86, 0.08, 0.72, 0.2)),
        ("oval", "l", (0.18, 0.36, 0.34, 0.56)),
    ],
    "laptop": [
        ("rect", "d", (0.14, 0.12, 0.86, 0.66)),
        ("rect", "l", (0.2, 0.18, 0.8, 0.6)),
        ("poly", "m", (0.14, 0.66, 0.86, 0.66, 1.0, 0.9, 0.0, 0.9)),
        ("poly", "k", (0.2, 0.7, 0.8, 0.7, 0.86, 0.8, 0.14, 0.8)),
    ],
    "keyboard": [
        ("rect", "m", (0.0, 0.32, 1.0, 0.74)),
        ("rect", "k", (0.06, 0.38, 0.94, 0.45)),
        ("rect", "k", (0.06, 0.5, 0.94, 0.57)),
        ("rect", "k", (0.24, 0.62, 0.76, 0.69)),
    ],
    "cell phone": [
        ("rect", "k", (0.26, 0.0, 0.74, 1.0)),
        ("rect", "m", (0.31, 0.1, 0.69, 0.84)),
        ("rect", "l", (0.35, 0.16, 0.5, 0.36)),
        ("oval", "w", (0.45, 0.87, 0.55, 0.97)),
    ],
    "book": [
        ("poly", "m", (0.0, 0.22, 0.48, 0.32, 0.48, 0.9, 0.0, 0.8)),
        ("poly", "d", (1.0, 0.22, 0.52, 0.32, 0.52, 0.9, 1.0, 0.8)),
        ("poly", "w", (0.06, 0.18, 0.48, 0.28, 0.48, 0.8, 0.06, 0.7)),
        ("poly", "w", (0.94, 0.18, 0.52, 0.28, 0.52, 0.8, 0.94, 0.7)),
        ("line", "g", (0.04, 0.14, 0.38, 0.42, 0.45)),
        ("line", "g", (0.04, 0.86, 0.38, 0.58, 0.45)),
    ],
    "chair": [
        ("rect", "m", (0.2, 0.0, 0.32, 1.0)),
        ("rect", "m", (0.24, 0.04, 0.62, 0.14)),
        ("rect", "d", (0.24, 0.22, 0.56, 0.3)),
        ("rect", "m", (0.2, 0.5, 0.84, 0.62)),
        ("rect", "d", (0.72, 0.6, 0.84, 1.0)),
    ],
    "clock": [
        ("oval", "m", (0.04, 0.04, 0.96, 0.96)),
        ("oval", "w", (0.16, 0.16, 0.84, 0.84)),
        ("line", "k", (0.07, 0.5, 0.24, 0.5, 0.5, 0.7, 0.6)),
    ],
}

_FIXED_TONES = {
    "k": (34, 34, 40),
    "w": (246, 246, 242),
    "g": (150, 152, 158),
    "s": (232, 184, 148),
    "b": (122, 78, 44),
    "r": (226, 50, 40),
    "y": (246, 206, 60),
    "e": (62, 176, 82),
}


def drawings() -> tuple[str, ...]:
    """Names of everything that can be drawn; a person is drawn as `man` or `woman`."""
    return tuple(_DRAWINGS)


def _tones(colour: str) -> dict[str, tuple[int, int, int]]:
    base = np.array(COLOURS[colour], dtype=np.float64)
    dark, light = (base * 0.66).astype(int), (base + (255 - base) * 0.5).astype(int)
    mixed = {"m": base.astype(int), "d": dark, "l": light}
    return {key: (int(v[0]), int(v[1]), int(v[2])) for key, v in mixed.items()} | _FIXED_TONES


@lru_cache(maxsize=4096)
def sprite(drawing: str, colour: str, size: int, flipped: bool = False) -> Array:
    """RGBA picture (size, size, 4) of one object in one colour; `flipped` mirrors it left to right."""
    side = size * _SUPERSAMPLING
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen, tones = ImageDraw.Draw(canvas), _tones(colour)
    for shape, tone, numbers in _DRAWINGS[drawing]:
        _stroke(pen, shape, tones[tone], numbers, side)
    small = np.asarray(canvas.resize((size, size), Image.Resampling.BOX))
    return np.ascontiguousarray(small[:, ::-1] if flipped else small)


def _stroke(
    pen: ImageDraw.ImageDraw, shape: str, ink: tuple[int, int, int], numbers: tuple[float, ...], side: int
) -> None:
    if shape == "line":
        width, numbers = max(1, round(numbers[0] * side)), numbers[1:]
    points = [n * (side - 1) for n in numbers]
    if shape == "rect":
        pen.rectangle(points, fill=ink)
    elif shape == "oval":
        pen.ellipse(points, fill=ink)
    elif shape == "ring":
        pen.ellipse(points, outline=ink, width=max(1, round(0.08 * side)))
    elif shape == "poly":
        pen.polygon(points, fill=ink)
    elif shape == "line":
        pen.line(points, fill=ink, width=width, joint="curve")
    elif shape == "half":
        pen.pieslice(points, 180, 360, fill=ink)
    else:
        pen.pieslice(points, 0, 180, fill=ink)
