"""What is read, in worker processes: scenes, documents and packed conversations, as files that trainings wait for."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.studies.lab2.sweep.variants import ANNOTATORS, HELD, LOOKS, amounts, settings
from grounddecode.lab import world
from grounddecode.lab.second import documents as docs
from grounddecode.lab.second import talk
from grounddecode.lab.second.words import encode
from grounddecode.lab.text import corpus
from grounddecode.lab.world import Scene


def render(job: tuple[str, str, int, int]) -> list[Scene]:
    folder, look, start, stop = job
    images = np.load(f"{folder}/{look}-images.npy", mmap_mode="r+")
    category, colour = (np.load(f"{folder}/{look}-{n}.npy", mmap_mode="r+") for n in ("category", "colour"))
    out = []
    for i in range(start, stop):
        scene, owner = world.draw_with_owners(world.SPLITS["train2"][i], LOOKS[look])
        images[i] = np.asarray(scene.image)
        category[i], colour[i] = corpus.patch_labels(scene, owner)
        out.append(replace(scene, image=Image.new("RGB", (0, 0))))
    return out


def pool_of(job: tuple[str, list[Scene], int]) -> list[list[int]]:
    kind, scenes, seed = job
    return docs.lab_texts(scenes, np.random.default_rng([seed, 21]), kind)


def document(job: tuple[str, int, docs.Texts, int, int]) -> np.ndarray:
    folder, key, texts, n, seed = job
    return docs.Writer(texts, pools_in(folder), np.random.default_rng([seed, key, 22])).write(n)


@cache
def pools_in(folder: str) -> Any:
    return pickle.loads(Path(folder, "pools.pkl").read_bytes())


def packed(job: tuple[list[Scene], str, int]) -> corpus.Packed:
    scenes, annotator, seed = job
    rng = np.random.default_rng([seed, 23])
    return corpus.pack([talk.conversation(s, rng, ANNOTATORS[annotator]) for s in scenes], True, encode, talk.weights)


def chunks(n: int, size: int) -> list[tuple[int, int]]:
    return [(i, min(i + size, n)) for i in range(0, n, size)]


def done(path: Path) -> None:
    path.with_suffix(".done").touch()


def wait(path: Path, until: float) -> bool:
    while not path.with_suffix(".done").exists():
        if time.time() > until:
            return False
        time.sleep(0.1)
    return True


class Maker:
    """Draws everything in one order and marks what is done."""

    def __init__(self, folder: Path, toy: bool, pool: Pool, workers: int, say: Callable[[str], None]) -> None:
        self.folder, self.amounts, self.pool, self.workers, self.say = folder, amounts(toy), pool, workers, say
        self.scenes: dict[str, list[Scene]] = {}

    def render(self, look: str) -> None:
        a = self.amounts
        jobs = [(str(self.folder), look, *c) for c in chunks(a[look], a["chunk"])]
        self.scenes[look] = [s for part in self.pool.map(render, jobs, chunksize=1) for s in part]
        (self.folder / f"{look}-scenes.pkl").write_bytes(pickle.dumps(self.scenes[look]))
        done(self.folder / f"{look}-scenes")
        self.say(f"{look} rendered")

    def encode(self) -> None:
        a, full = self.amounts, self.scenes["full"]
        pools = {}
        for kind in ("captions", "questions"):
            jobs = [(kind, full[s:e], s) for s, e in chunks(a["full"] - HELD, a["chunk"])]
            pools[kind] = [t for part in self.pool.map(pool_of, jobs, chunksize=1) for t in part]
        (self.folder / "pools.pkl").write_bytes(pickle.dumps({k: v[:30_000] for k, v in pools.items()}))
        self.say("texts encoded")

    def write(self) -> None:
        count = self.amounts["docs"]
        per = max(16, count // self.workers)
        jobs = [(str(self.folder), k, t, per, i) for k, t in enumerate(settings()) for i in range(-(-count // per))]
        written: dict[int, list[np.ndarray]] = {}
        for job, part in zip(jobs, self.pool.imap(document, jobs, chunksize=1), strict=True):
            written.setdefault(job[1], []).append(part)
        for key, parts in written.items():
            np.save(self.folder / f"docs-{key}.npy", np.concatenate(parts).astype(np.int16))
        done(self.folder / "docs")
        self.say("documents written")

    def pack(self, look: str) -> None:
        a = self.amounts
        for annotator in ANNOTATORS:
            visits = a["rows"] if annotator == "careful" else 1
            spans = chunks(a[look] - HELD, a["chunk"])
            jobs = [(self.scenes[look][s:e], annotator, s + 10**6 * v) for v in range(visits) for s, e in spans]
            parts = self.pool.map(packed, jobs, chunksize=1)
            arrays = {f: np.concatenate([getattr(p, f) for p in parts]) for f in FIELDS}
            whole: Any = {k: v.astype(np.float16 if k == "weight" else np.int16) for k, v in arrays.items()}
            np.savez(self.folder / f"{look}-{annotator}.npz", **whole)
            done(self.folder / f"{look}-{annotator}")
        self.say(f"{look} packed")


FIELDS = ("ids", "position", "segment", "label", "weight")


def make_data(folder: Path, toy: bool, workers: int, say: Callable[[str], None]) -> None:
    """Scenes, documents and conversations of both worlds, what is waited for first coming first."""
    with get_context("fork").Pool(workers) as pool:
        for look in LOOKS:
            for name, shape in (("images", (96, 96, 3)), ("category", (64,)), ("colour", (64,))):
                np.lib.format.open_memmap(folder / f"{look}-{name}.npy", "w+", np.uint8, (amounts(toy)[look], *shape))
        maker = Maker(folder, toy, pool, workers, say)
        maker.render("full")
        maker.encode()
        maker.write()
        maker.render("sparse")
        for look in LOOKS:
            maker.pack(look)
