"""What the second lab reads: documents and packed conversations, drawn ahead by worker processes and kept on disk."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from grounddecode.lab.captions import Annotator
from grounddecode.lab.second.documents import Texts, Writer, lab_texts
from grounddecode.lab.second.talk import conversation, weights
from grounddecode.lab.second.words import encode
from grounddecode.lab.text import corpus
from grounddecode.lab.world import Scene

CHUNK = 250
_FIELDS = {"ids": np.int16, "position": np.int16, "segment": np.int8, "label": np.int16, "weight": np.float16}


def documents(
    folder: Path, split: str, images: int, texts: Texts, annotator: Annotator, count: int, workers: int
) -> np.ndarray:
    """`count` documents (count, length + 1) int16 about the first training scenes, from the cache if they are there."""

    def made() -> Iterator[np.ndarray]:
        jobs = [(str(folder), split, images, texts, annotator, n, i) for i, n in enumerate(_parts(count, 1000))]
        yield from _spread(_write, jobs, workers)

    return _kept(folder, ("documents", split, images, astuple(texts), astuple(annotator), count), made)["rows"]


def rows(folder: Path, split: str, images: int, annotator: Annotator, visits: int, workers: int) -> corpus.Packed:
    """Packed conversations, `visits` of every training scene; row `r` is about scene `r % images`."""

    def made() -> Iterator[dict[str, np.ndarray]]:
        spans = [(i, min(i + CHUNK, images)) for i in range(0, images, CHUNK)]
        jobs = [(str(folder), split, images, annotator, *span, visit) for visit in range(visits) for span in spans]
        yield from _spread(_pack, jobs, workers)

    return corpus.Packed(**_kept(folder, ("rows", split, images, astuple(annotator), visits), made))


@cache
def _corpus(folder: str, split: str, images: int) -> corpus.Corpus:
    return corpus.load(Path(folder), images, split=split)


@cache
def _pools(folder: str, split: str, images: int, annotator: Annotator, questions: bool) -> dict[str, list[list[int]]]:
    scenes, rng = _corpus(folder, split, images).scenes, np.random.default_rng(21)
    kinds = ("captions", "questions") if questions else ("captions",)
    some = scenes[:: max(1, len(scenes) // 3000)]
    return {kind: lab_texts(some, rng, kind, annotator) for kind in kinds}


def _write(job: tuple[Any, ...]) -> np.ndarray:
    folder, split, images, texts, annotator, count, number = job
    rng = np.random.default_rng([number, 22])
    writer = Writer(texts, _pools(folder, split, images, annotator, texts.questions), rng)
    return writer.write(count).astype(np.int16)


def _pack(job: tuple[Any, ...]) -> dict[str, np.ndarray]:
    folder, split, images, annotator, start, stop, visit = job
    scenes: list[Scene] = _corpus(folder, split, images).scenes[start:stop]
    rng = np.random.default_rng([start, visit, 23])
    packed = corpus.pack([conversation(scene, rng, annotator) for scene in scenes], True, encode, weights)
    return {name: getattr(packed, name).astype(kind) for name, kind in _FIELDS.items()}


def _parts(count: int, size: int) -> list[int]:
    return [min(size, count - start) for start in range(0, count, size)]


def _spread(work: Callable[[Any], Any], jobs: list[Any], workers: int) -> Iterator[Any]:
    if workers < 2:
        yield from map(work, jobs)
        return
    with get_context("fork").Pool(workers) as pool:
        yield from pool.imap(work, jobs, chunksize=1)


def _kept(folder: Path, key: tuple[Any, ...], made: Callable[[], Iterable[Any]]) -> dict[str, np.ndarray]:
    """Arrays from the cache, or made, put together and kept there."""
    path = folder / f"{key[0]}-{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        parts = [part if isinstance(part, dict) else {"rows": part} for part in made()]
        folder.mkdir(parents=True, exist_ok=True)
        whole: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        np.savez(path.with_suffix(".tmp.npz"), **whole)
        path.with_suffix(".tmp.npz").rename(path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}
