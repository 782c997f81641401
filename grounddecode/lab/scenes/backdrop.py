"""The backgrounds of the lab world: a wall or sky above, a floor or ground below, with a little furniture."""

import numpy as np
import numpy.typing as npt

Canvas = npt.NDArray[np.float64]
_PALETTES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "kitchen": ((222, 206, 178), (178, 148, 118)),
    "street": ((168, 196, 222), (116, 116, 120)),
    "office": ((186, 196, 204), (128, 116, 128)),
    "park": ((156, 206, 232), (124, 172, 96)),
}


def backdrop(scene: str, rng: np.random.Generator, side: int) -> Canvas:
    """Float canvas (side, side, 3) of a scene, its tones and its horizon jittered by `rng`."""
    upper, lower = (np.array(c, dtype=np.float64) + rng.uniform(-12, 12, 3) for c in _PALETTES[scene])
    horizon = int(side * rng.uniform(0.42, 0.62))
    canvas = np.empty((side, side, 3))
    canvas[:horizon] = upper + np.linspace(-6, 8, horizon)[:, None, None]
    canvas[horizon:] = lower + np.linspace(10, -10, side - horizon)[:, None, None]
    {"kitchen": _tiles, "street": _road, "office": _panels, "park": _meadow}[scene](canvas, horizon, rng)
    return canvas


def _tiles(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    step = int(rng.integers(10, 15))
    canvas[:horizon:step] -= 12
    canvas[:horizon, ::step] -= 12
    canvas[horizon : horizon + 3] -= 34


def _road(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    left = 0
    while left < side:
        width, height = int(rng.integers(12, 26)), int(rng.integers(8, max(9, horizon - 6)))
        canvas[horizon - height : horizon, left : left + width - 1] += rng.uniform(-40, -16)
        left += width
    lane = (horizon + side) // 2
    for start in range(int(rng.integers(0, 10)), side, 22):
        canvas[lane : lane + 2, start : start + 11] += 44


def _panels(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    left = int(rng.integers(4, side // 2))
    canvas[6 : horizon - 8, left : left + 26] += 20
    canvas[6 : horizon - 8, left + 12 : left + 14] -= 24
    canvas[horizon : horizon + 4] -= 26


def _meadow(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    ys, xs = np.mgrid[0:side, 0:side]
    for _ in range(3):
        x, radius = rng.uniform(0, side), rng.uniform(7, 13)
        bush = (xs - x) ** 2 + (ys - horizon) ** 2 < radius**2
        canvas[bush & (ys < horizon)] += np.array([-66.0, -34.0, -96.0])
    blades = rng.random((side, side)) < 0.06
    canvas[blades & (ys >= horizon)] -= 16
