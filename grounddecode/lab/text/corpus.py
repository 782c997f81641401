"""Training data of the lab: images rendered once into a cache, conversations drawn anew at every visit."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from grounddecode.lab import captions
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.text import questions
from grounddecode.lab.text.tokenizer import encode, vocabulary
from grounddecode.lab.world import CATEGORIES, CELL, GRID, SCENES, SIDE, SPLITS, Scene, draw_with_owners

PATCHES = GRID * GRID
SLOTS, SLOT = 2, 96
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


def load(folder: Path, n: int, workers: int = 1, split: str = "train") -> Corpus:
    """The first `n` scenes of a split, rendered into `folder` on the first call and mapped from there afterwards."""
    base = folder / f"{split}-{n}"
    if not (base / "done").exists():
        _render(base, SPLITS[split][:n], workers)
    scenes = pickle.loads((base / "scenes.pkl").read_bytes())
    images, category, colour = (
        np.load(base / f"{name}.npy", mmap_mode="r") for name in ("images", "category", "colour")
    )
    presence = np.array(
        [[c in there for c in CATEGORIES] for there in (s.categories for s in scenes)], dtype=np.float32
    )
    place = np.array([SCENES.index(s.scene) for s in scenes])
    return Corpus(images, category, colour, presence, place, scenes)


def _render(base: Path, seeds: range, workers: int) -> None:
    n = len(seeds)
    base.mkdir(parents=True, exist_ok=True)
    open_memmap: Any = np.lib.format.open_memmap  # typed from numpy 2.4 on only
    images = open_memmap(base / "images.npy", mode="w+", dtype=np.uint8, shape=(n, SIDE, SIDE, 3))
    category, colour = np.empty((n, PATCHES), np.uint8), np.empty((n, PATCHES), np.uint8)
    scenes: list[Scene] = []
    with Pool(workers) as pool:
        for i, (image, labels, tints, scene) in enumerate(pool.imap(_example, seeds, chunksize=64)):
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
    without = replace(scene, image=Image.new("RGB", (0, 0)))  # the picture is stored beside it
    return np.asarray(scene.image), category, colour, without


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
    """Packed rows (n, prefix + 2 * 96): ids, position, segment (0 prefix, -1 padding), next-token label, loss weight.

    The label is -100 where nothing is to be predicted.
    """

    ids: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def prefix(with_image: bool) -> list[int]:
    """`<s> USER :` and, with an image, its 64 placeholder tokens."""
    return [2, *encode("USER:")] + ([4] * PATCHES if with_image else [])


def token_weights(turn: questions.Turn, answer: list[int]) -> list[float]:
    """Loss weights of an encoded answer: yes and no 3, object and colour words 2, all others 1."""
    table = _weight_table()
    return [table[i] if i < len(table) else 2.0 for i in answer]


def pack(
    conversations: list[list[questions.Turn]],
    with_image: bool,
    encoded: Callable[[str], list[int]] = encode,
    weigh: Callable[[questions.Turn, list[int]], list[float]] = token_weights,
) -> Packed:
    """One row an image: the prefix once, then two slots of turns, each turn in the first slot that has room for it.

    A turn sees the prefix and itself only, and its positions start right behind the image, so that it computes what it
    would alone. A turn that fits nowhere is left out.
    """
    n, head = len(conversations), prefix(with_image)
    length = len(head) + SLOTS * SLOT
    packed = Packed(
        np.full((n, length), 1), np.zeros((n, length), np.int64), np.full((n, length), -1), np.full((n, length), -100),
        np.zeros((n, length), np.float32),
    )  # fmt: skip
    for row, turns in enumerate(conversations):
        packed.ids[row, : len(head)] = head
        packed.position[row, : len(head)] = np.arange(len(head))
        packed.segment[row, : len(head)] = 0
        used = [0] * SLOTS
        for number, turn in enumerate(turns, start=1):
            question, answer = encoded(turn.question + " ASSISTANT:"), [*encoded(turn.answer), 3]
            size = len(question) + len(answer)
            slot = next((i for i in range(SLOTS) if used[i] + size <= SLOT), None)
            if slot is None:
                continue
            at = len(head) + slot * SLOT + used[slot]
            _put(packed, row, at, number, question, answer, weigh(turn, answer))
            used[slot] += size
    return packed


def _put(
    packed: Packed, row: int, at: int, number: int, question: list[int], answer: list[int], weights: list[float]
) -> None:
    span = slice(at, at + len(question) + len(answer))
    packed.ids[row, span], packed.segment[row, span] = question + answer, number
    packed.position[row, span] = np.arange(len(question) + len(answer)) + 3 + PATCHES
    targets = slice(at + len(question) - 1, span.stop - 1)
    packed.label[row, targets], packed.weight[row, targets] = answer, weights


@cache
def _weight_table() -> tuple[float, ...]:
    content = {w for c in CATEGORIES for w in c.split()} | set(COLOURS) | set(captions.PEOPLE)
    content |= {w for words in captions.NOUNS.values() for word in words for w in word.split()}
    return tuple(3.0 if w in ("Yes", "No") else 2.0 if w in content else 1.0 for w in vocabulary())


def long_prompt(rng: np.random.Generator) -> str:
    """The usual caption prompt, or one of its variants."""
    return captions.LONG_PROMPTS[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]


def conversation(scene: Scene, rng: np.random.Generator, annotator: captions.Annotator) -> list[questions.Turn]:
    """What one visit of an image teaches: captions first, then questions until the row is full."""
    text, named = captions.long_caption(scene, rng, annotator.pad)
    turns = [questions.Turn("caption", long_prompt(rng), text)]
    if rng.random() < 0.6:
        again, _ = captions.long_caption(scene, rng, annotator.pad)
        turns.append(questions.Turn("caption", long_prompt(rng), again))
    if rng.random() < 0.25:
        turns.append(questions.Turn("short", captions.SHORT_PROMPT, captions.short_caption(scene, rng)))
    turns += [questions.attribute(scene, rng, tuple(COLOURS)) for _ in range(2)]
    turns.append((questions.relational if rng.random() < 0.6 else questions.placement)(scene, rng))
    return turns + [questions.existence(scene, rng, named, annotator.mined) for _ in range(10)]


def text_only(scene: Scene, rng: np.random.Generator, annotator: captions.Annotator) -> list[questions.Turn]:
    """Captions alone, for the language prior learnt without images."""
    turns = [
        questions.Turn("caption", long_prompt(rng), captions.long_caption(scene, rng, annotator.pad)[0])
        for _ in range(4)
    ]
    return [*turns, questions.Turn("short", captions.SHORT_PROMPT, captions.short_caption(scene, rng))]
