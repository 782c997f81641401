"""Training data of the lab: images rendered once into a cache, conversations drawn anew at every visit."""

import pickle
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from grounddecode.lab import captions
from grounddecode.lab.sprites import COLOURS
from grounddecode.lab.tokenizer import encode
from grounddecode.lab.world import CATEGORIES, CELL, GRID, SCENES, SIDE, SPLITS, Scene, draw_with_owners

PATCHES = GRID * GRID
LENGTH = 256
BACKGROUND = len(CATEGORIES)
_LEAST_PIXELS = 8


@dataclass(frozen=True)
class Corpus:
    """`n` training images (n, 96, 96, 3) uint8, per patch the category and colour seen there, and the scenes."""

    images: np.ndarray
    patch_category: np.ndarray
    patch_colour: np.ndarray
    presence: np.ndarray
    place: np.ndarray
    scenes: list[Scene]


def load(folder: Path, n: int, workers: int = 1) -> Corpus:
    """The first `n` training scenes, rendered into `folder` on the first call and mapped from there afterwards."""
    base = folder / f"train-{n}"
    if not (base / "done").exists():
        _render(base, n, workers)
    scenes = pickle.loads((base / "scenes.pkl").read_bytes())
    images, category, colour = (
        np.load(base / f"{name}.npy", mmap_mode="r") for name in ("images", "category", "colour")
    )
    presence = np.array([[c in s.categories for c in CATEGORIES] for s in scenes], dtype=np.float32)
    place = np.array([SCENES.index(s.scene) for s in scenes])
    return Corpus(images, category, colour, presence, place, scenes)


def _render(base: Path, n: int, workers: int) -> None:
    base.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        base / "images.npy", mode="w+", dtype=np.uint8, shape=(n, SIDE, SIDE, 3)
    )
    category, colour = np.empty((n, PATCHES), np.uint8), np.empty((n, PATCHES), np.uint8)
    scenes: list[Scene] = []
    with Pool(workers) as pool:
        for i, (image, labels, tints, scene) in enumerate(pool.imap(_example, SPLITS["train"][:n], chunksize=64)):
            images[i], category[i], colour[i] = image, labels, tints
            scenes.append(scene)
    images.flush()
    np.save(base / "category.npy", category)
    np.save(base / "colour.npy", colour)
    (base / "scenes.pkl").write_bytes(pickle.dumps(scenes))
    (base / "done").touch()


def _example(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Scene]:
    scene, owner = draw_with_owners(seed)
    category, colour = patch_labels(scene, owner)
    return np.asarray(scene.image), category, colour, Scene(scene.seed, scene.scene, scene.objects, None)  # type: ignore[arg-type]


def patch_labels(scene: Scene, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Category and colour index of the main object in each of the 64 patches (background: the last index)."""
    tiles = owner.reshape(GRID, CELL, GRID, CELL).transpose(0, 2, 1, 3).reshape(PATCHES, -1)
    counts = np.stack([(tiles == i).sum(1) for i in range(len(scene.objects))], axis=1)
    best, enough = counts.argmax(1), counts.max(1) >= _LEAST_PIXELS
    names, tints = list(CATEGORIES), list(COLOURS)
    category = np.array([names.index(t.category) for t in scene.objects])[best]
    colour = np.array([tints.index(t.colour) for t in scene.objects])[best]
    return np.where(enough, category, BACKGROUND).astype(np.uint8), np.where(enough, colour, len(tints)).astype(
        np.uint8
    )


@dataclass(frozen=True)
class Packed:
    """Packed rows (n, 256): ids, position, segment (0 prefix, -1 padding), next-token label (-100: none), weight."""

    ids: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def prefix(with_image: bool) -> list[int]:
    """`<s> USER :` and, with an image, its 64 placeholder tokens."""
    return [2, *encode("USER:")] + ([4] * PATCHES if with_image else [])


def pack(conversations: list[list[captions.Turn]], with_image: bool, length: int = LENGTH) -> Packed:
    """One row an image: the prefix once, then turns that see the prefix and themselves only, as many as fit.

    Positions restart behind the image for every turn, so each turn computes what it would alone after the prefix.
    """
    n, head = len(conversations), prefix(with_image)
    start = 3 + PATCHES
    ids, position = np.full((n, length), 1), np.zeros((n, length), np.int64)
    segment, label, weight = np.full((n, length), -1), np.full((n, length), -100), np.zeros((n, length), np.float32)
    for row, turns in enumerate(conversations):
        ids[row, : len(head)], position[row, : len(head)], segment[row, : len(head)] = head, np.arange(len(head)), 0
        at, number = len(head), 0
        for turn in turns:
            question, answer = encode(turn.question + " ASSISTANT:"), [*encode(turn.answer), 3]
            size = len(question) + len(answer)
            if at + size > length:
                continue
            number += 1
            span = slice(at, at + size)
            ids[row, span], segment[row, span] = question + answer, number
            position[row, span] = np.arange(start, start + size)
            first = at + len(question) - 1
            label[row, first : first + len(answer)] = answer
            weight[row, first : first + len(answer)] = token_weights(answer)
            at += size
    return Packed(ids, position, segment, label, weight)


def token_weights(answer: list[int]) -> list[float]:
    """Loss weights: yes and no 3, object and colour words 2, all others 1."""
    return [_weight_table()[i] for i in answer]


_TABLE: list[float] = []


def _weight_table() -> list[float]:
    if not _TABLE:
        content = {w for c in CATEGORIES for w in c.split()} | set(COLOURS) | set(captions.PEOPLE)
        content |= {w for words in captions.NOUNS.values() for word in words for w in word.split()}
        from grounddecode.lab.tokenizer import vocabulary

        _TABLE.extend(3.0 if w in ("Yes", "No") else 2.0 if w in content else 1.0 for w in vocabulary())
    return _TABLE


def long_prompt(rng: np.random.Generator) -> str:
    """The usual caption prompt, or one of its variants."""
    return captions.LONG_PROMPTS[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]


def conversation(scene: Scene, rng: np.random.Generator, pad: float) -> list[captions.Turn]:
    """What one visit of an image teaches: captions first, then questions until the row is full."""
    text, named = captions.long_caption(scene, rng, pad)
    turns = [captions.Turn("caption", long_prompt(rng), text)]
    if rng.random() < 0.6:
        again, _ = captions.long_caption(scene, rng, pad)
        turns.append(captions.Turn("caption", long_prompt(rng), again))
    if rng.random() < 0.25:
        turns.append(captions.Turn("short", captions.SHORT_PROMPT, captions.short_caption(scene, rng)))
    turns.append(captions.attribute(scene, rng, tuple(COLOURS)))
    turns.append((captions.relational if rng.random() < 0.6 else captions.placement)(scene, rng))
    return turns + [captions.existence(scene, rng, named) for _ in range(8)]


def text_only(scene: Scene, rng: np.random.Generator, pad: float) -> list[captions.Turn]:
    """Captions alone, for the language prior learnt without images."""
    turns = [captions.Turn("caption", long_prompt(rng), captions.long_caption(scene, rng, pad)[0]) for _ in range(5)]
    return [*turns, captions.Turn("short", captions.SHORT_PROMPT, captions.short_caption(scene, rng))]
