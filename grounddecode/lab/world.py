"""The lab's worlds: scenes with strong co-occurrence, drawn at 96 x 96 pixels, deterministic from one integer."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from grounddecode.lab.scenes.backdrop import backdrop
from grounddecode.lab.scenes.ground import Ground
from grounddecode.lab.scenes.sprites import COLOURS, Array, sprite

SIDE = 96
CELL = 12
GRID = SIDE // CELL
SCENES = ("kitchen", "street", "office", "park")
CATEGORIES = (
    "person", "bicycle", "car", "traffic light", "fire hydrant", "stop sign", "bench", "bird", "cat", "dog", "umbrella",
    "frisbee", "kite", "cup", "knife", "spoon", "bowl", "banana", "apple", "chair", "laptop", "keyboard", "cell phone",
    "oven", "refrigerator", "book", "clock",
)  # fmt: skip
SPLITS: dict[str, range] = {
    "train": range(1_000_000),
    "calibration": range(1_000_000, 1_100_000),
    "evaluation": range(2_000_000, 2_100_000),
    "train2": range(10_000_000, 11_000_000),
    "calibration2": range(11_000_000, 11_100_000),
    "evaluation2": range(12_000_000, 12_100_000),
    "train3": range(20_000_000, 21_000_000),
    "calibration3": range(21_000_000, 21_100_000),
    "evaluation3": range(22_000_000, 22_100_000),
}
SECOND = 10_000_000  # seeds from here on draw the second lab's world
THIRD = 20_000_000  # and from here on the second lab's with objects at any pixel
OFF_SCENE = 0.02


@dataclass(frozen=True)
class Look:
    """How full a world is.

    `cells`: chances of an object that is one, two, ... patches wide; `copies`: chances of one, two, ... objects of a
    category that can be counted; `free`: objects stand at any pixel, else within a pixel of the patches' grid.
    """

    cells: tuple[float, ...] = (0.36, 0.5, 0.14)
    copies: tuple[float, ...] = (1.0,)
    free: bool = False


SPARSE = Look()
#: Larger objects, up to three of a kind: about half of the patches show one.
FULL = Look((0.12, 0.24, 0.34, 0.3), (0.5, 0.3, 0.2))
FREE = replace(FULL, free=True)
COUNTABLE = frozenset(("bird", "apple", "cup", "book", "chair", "car", "banana", "kite", "spoon", "bowl", "bicycle"))

PRESENCE: dict[str, dict[str, float]] = {
    "kitchen": {
        "person": 0.4, "refrigerator": 0.6, "oven": 0.6, "bowl": 0.5, "cup": 0.5, "spoon": 0.4, "knife": 0.4,
        "banana": 0.3, "apple": 0.4, "chair": 0.3, "cat": 0.25,
    },
    "street": {
        "person": 0.6, "car": 0.75, "traffic light": 0.5, "stop sign": 0.35, "fire hydrant": 0.35, "bicycle": 0.4,
        "bench": 0.2, "dog": 0.25, "umbrella": 0.25,
    },
    "office": {
        "person": 0.5, "laptop": 0.7, "keyboard": 0.5, "cell phone": 0.45, "book": 0.5, "cup": 0.45, "chair": 0.55,
        "clock": 0.4,
    },
    "park": {
        "person": 0.65, "bench": 0.55, "dog": 0.5, "bird": 0.5, "kite": 0.45, "frisbee": 0.4, "bicycle": 0.35,
        "umbrella": 0.25,
    },
}  # fmt: skip
# Presence of the second object, given that the first is there or is not; it replaces the scene's own number.
PAIRS: dict[tuple[str, str], tuple[float, float]] = {
    ("laptop", "keyboard"): (0.65, 0.2),
    ("bowl", "spoon"): (0.65, 0.2),
    ("apple", "knife"): (0.6, 0.25),
    ("car", "traffic light"): (0.6, 0.25),
    ("person", "dog"): (0.6, 0.3),
}
FAVOURITE = {
    "person": "blue", "bicycle": "red", "car": "red", "traffic light": "yellow", "fire hydrant": "red",
    "stop sign": "red", "bench": "green", "bird": "blue", "cat": "white", "dog": "white", "umbrella": "purple",
    "frisbee": "yellow", "kite": "purple", "cup": "blue", "knife": "purple", "spoon": "white", "bowl": "green",
    "banana": "yellow", "apple": "red", "chair": "green", "laptop": "white", "keyboard": "white", "cell phone": "blue",
    "oven": "white", "refrigerator": "white", "book": "purple", "clock": "green",
}  # fmt: skip
_HIGH = {"traffic light", "stop sign", "kite", "bird", "clock"}
_LOW = {"car", "dog", "bench", "fire hydrant", "oven", "refrigerator", "chair", "bicycle", "laptop", "keyboard"}


@dataclass(frozen=True)
class Thing:
    """One drawn object: `bbox` is x, y, width, height of what is visible, in pixels; `occlusion` the hidden share."""

    category: str
    bbox: tuple[int, int, int, int]
    colour: str
    contrast: float
    occlusion: float
    drawing: str
    area: int

    @property
    def salience(self) -> float:
        """Visible area in pixels times contrast; below about 60 an object is truly hard to see."""
        return self.area * self.contrast

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box, x and y in pixels."""
        return self.bbox[0] + self.bbox[2] / 2, self.bbox[1] + self.bbox[3] / 2


@dataclass(frozen=True)
class Scene:
    """One drawn scene; `objects` come in an order that says nothing about how visible they are."""

    seed: int
    scene: str
    objects: tuple[Thing, ...]
    image: Image.Image = field(repr=False, compare=False)

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories present, each once."""
        return tuple(dict.fromkeys(thing.category for thing in self.objects))


def prior(scene: str, category: str) -> float:
    """Marginal presence of a category in a scene, before pair rules."""
    return PRESENCE[scene].get(category, OFF_SCENE)


def look_of(seed: int) -> Look:
    """How full the world of a seed is, and where its objects may stand."""
    return FREE if seed >= THIRD else FULL if seed >= SECOND else SPARSE


def draw(seed: int) -> Scene:
    """The scene of one integer seed; the same seed gives the same scene every time."""
    return draw_with_owners(seed)[0]


def draw_with_owners(seed: int, look: Look | None = None) -> tuple[Scene, np.ndarray]:
    """A scene and the map (96, 96) of which object, by its index in `objects`, is visible at each pixel (-1: none).

    `look`: by default that of the world which the seed belongs to.
    """
    look = look or look_of(seed)
    if seed < 0:
        raise ValueError(f"The scene seed was {seed}; give a non-negative integer.")
    rng = np.random.default_rng(seed)
    scene = SCENES[int(rng.integers(len(SCENES)))]
    canvas = backdrop(scene, rng, SIDE)
    owner = np.full((SIDE, SIDE), -1, dtype=np.int64)
    wanted = _copies(_present(scene, rng), look, rng)
    ground = Ground(SIDE) if look.free else owner
    specs = [_place(category, ground, rng, look) for category in wanted]
    placed = [spec for spec in specs if spec is not None]
    for index, spec in enumerate(placed):
        _paint(canvas, owner, index, spec)
    canvas += rng.normal(0.0, rng.uniform(1.0, 9.0), canvas.shape)
    image = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    things = [_thing(owner, index, spec) for index, spec in enumerate(placed)]
    order = rng.permutation(len(things))
    renamed = np.append(np.argsort(order), -1)[owner]
    return Scene(seed, scene, tuple(things[i] for i in order), image), renamed


def scenes(split: str, n: int, start: int = 0) -> list[Scene]:
    """`n` scenes of a split ("train", "calibration", "evaluation"), from its `start`-th seed on."""
    if split not in SPLITS:
        raise ValueError(f"The split was {split!r}; use one of {', '.join(SPLITS)}.")
    seeds = SPLITS[split][start : start + n]
    if n < 0 or len(seeds) != n:
        raise ValueError(f"The split {split!r} has {len(SPLITS[split])} seeds; {n} from {start} are not there.")
    return [draw(seed) for seed in seeds]


@dataclass(frozen=True)
class _Spec:
    category: str
    drawing: str
    colour: str
    contrast: float
    x: int
    y: int
    size: int
    flipped: bool


def _present(scene: str, rng: np.random.Generator) -> list[str]:
    """Categories of one scene, between two and seven, in random order."""
    conditioned = {second: (first, odds) for (first, second), odds in PAIRS.items()}
    chosen: set[str] = set()
    for category in sorted(CATEGORIES, key=lambda c: c in conditioned):
        chance = prior(scene, category)
        if category in conditioned and chance > OFF_SCENE:
            first, (with_it, without) = conditioned[category]
            chance = with_it if first in chosen else without
        if rng.random() < chance:
            chosen.add(category)
    common = sorted(PRESENCE[scene], key=lambda c: -prior(scene, c))
    while len(chosen) < 2:
        chosen.add(common[int(rng.integers(4))])
    order = [sorted(chosen)[i] for i in rng.permutation(len(chosen))]
    return order[:7]


def _copies(chosen: list[str], look: Look, rng: np.random.Generator) -> list[str]:
    """The categories again, those with several objects as often as they are there, the first of each in front."""
    if len(look.copies) == 1:
        return chosen
    more = [int(rng.choice(len(look.copies), p=look.copies)) if c in COUNTABLE else 0 for c in chosen]
    return chosen + [c for c, n in zip(chosen, more, strict=True) for _ in range(n)]


def _place(category: str, owner: np.ndarray | Ground, rng: np.random.Generator, look: Look) -> _Spec | None:
    """Size, look and a free place for one object, or None where the picture is full."""
    cells = int(rng.choice(np.arange(len(look.cells)) + 1, p=look.cells))
    faint = rng.random() < 0.35
    contrast = float(rng.uniform(0.2, 0.5) if faint else rng.uniform(0.75, 1.0))
    favourite = rng.random() < 0.45
    colour = FAVOURITE[category] if favourite else str(rng.choice(list(COLOURS)))
    drawing = category if category != "person" else str(rng.choice(["man", "woman"]))
    if isinstance(owner, Ground):
        return _anywhere(owner, _Spec(category, drawing, colour, contrast, 0, 0, cells * CELL, False), rng)
    for _ in range(30):
        column, row = (int(v) for v in rng.integers(0, GRID - cells + 1, 2))
        if rng.random() < 0.6 and not _level_ok(category, row + cells / 2):
            continue
        size = cells * CELL
        x, y = (int(np.clip(v * CELL + rng.integers(-1, 2), 0, SIDE - size)) for v in (column, row))
        if _room(owner, x, y, size):
            break
    else:
        return None
    spec = _Spec(category, drawing, colour, contrast, x, y, size, bool(rng.random() < 0.5))
    _reserve(owner, spec)
    return spec


def _anywhere(ground: Ground, spec: _Spec, rng: np.random.Generator) -> _Spec | None:
    """The object at a pixel where those already there stay visible, or None where thirty tries find none."""
    spec = replace(spec, flipped=bool(rng.random() < 0.5))
    shape = sprite(spec.drawing, spec.colour, spec.size, spec.flipped)[..., 3] > 127
    for _ in range(30):
        x, y = (int(v) for v in rng.integers(0, SIDE - spec.size + 1, 2))
        if rng.random() < 0.6 and not _level_ok(spec.category, (y + spec.size / 2) / CELL):
            continue
        if ground.put(shape, x, y):
            return replace(spec, x=x, y=y)
    return None


def _level_ok(category: str, centre: float) -> bool:
    if category in _HIGH:
        return centre < GRID * 0.55
    return centre > GRID * 0.45 if category in _LOW else True


def _room(owner: np.ndarray, x: int, y: int, size: int) -> bool:
    """Whether a square may go here: no object already placed may lose more than about a quarter of its square."""
    window = owner[y : y + size, x : x + size]
    covered = {int(i): int((window == i).sum()) for i in np.unique(window) if i != -1}
    return all(hidden <= 0.27 * (-key) for key, hidden in covered.items())


def _reserve(owner: np.ndarray, spec: _Spec) -> None:
    # Until it is painted, a square is marked by minus its own area, which is all that `_room` needs to know.
    owner[spec.y : spec.y + spec.size, spec.x : spec.x + spec.size] = -(spec.size**2)


def _paint(canvas: np.ndarray, owner: np.ndarray, index: int, spec: _Spec) -> None:
    if index == 0:
        owner[:] = -1
    picture: Array = sprite(spec.drawing, spec.colour, spec.size, spec.flipped)
    alpha = picture[..., 3:].astype(np.float64) / 255 * spec.contrast
    rows, columns = slice(spec.y, spec.y + spec.size), slice(spec.x, spec.x + spec.size)
    canvas[rows, columns] = canvas[rows, columns] * (1 - alpha) + picture[..., :3] * alpha
    owner[rows, columns][picture[..., 3] > 127] = index


def _thing(owner: np.ndarray, index: int, spec: _Spec) -> Thing:
    full = int((sprite(spec.drawing, spec.colour, spec.size, spec.flipped)[..., 3] > 127).sum())
    ys, xs = np.nonzero(owner == index)
    if len(xs) == 0:
        raise RuntimeError(f"The {spec.category} was hidden altogether; the placement rule is broken.")
    box = (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
    hidden = round(1 - len(xs) / full, 4)
    return Thing(spec.category, box, spec.colour, round(spec.contrast, 4), hidden, spec.drawing, len(xs))


def weights(scene: str, exclude: Sequence[str]) -> np.ndarray:
    """Presence of all categories in a scene as weights, zero for those in `exclude`; shape (categories,)."""
    return np.array([0.0 if c in exclude else prior(scene, c) for c in CATEGORIES])
