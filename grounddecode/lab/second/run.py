"""One training of the second lab from nothing to checkpoints: several seeds side by side, gate after gate."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grounddecode.lab import model as hugging
from grounddecode.lab.captions import Annotator, long_caption
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.second import gates, material
from grounddecode.lab.second.decoder import Decoders
from grounddecode.lab.second.recipe import GUESSING, SHARES, TOWER, Member, Recipe
from grounddecode.lab.second.stages import Album, Pace, joint_stage, projector_stage, tensors, text_stage
from grounddecode.lab.second.tower import train_tower
from grounddecode.lab.second.words import encode, words
from grounddecode.lab.text import corpus
from grounddecode.lab.training.vision import cache_features, pixels
from grounddecode.lab.world import SPLITS, Scene, draw_with_owners


def see(seed: int, cache: Path, recipe: Recipe, seconds: float, device_name: str, threads: int) -> Path:
    """Train the tower of one seed, and keep its weights and what it sees of the training and held-out scenes."""
    torch.set_num_threads(threads)
    path = recipe.tower_file(cache, seed)
    if path.exists():
        return path
    device = torch.device(device_name)
    training = corpus.load(cache, recipe.images, split=recipe.split("train"))
    built = hugging.build_model(seed, eyes=recipe.eyes)
    lines: list[tuple[int, dict[str, float]]] = []
    pace = Pace(recipe.tower_steps, seconds)
    torch.backends.cuda.matmul.allow_tf32 = True  # a process of its own, which has not heard of it
    train_tower(
        built, training, seed, pace, device, lambda m: m, lambda _, step, numbers: lines.append((step, numbers)),
        recipe.tower_batch,
    )  # fmt: skip
    features = cache_features(built, training, seed, device)
    scenes, objects = held_out(recipe, recipe.held)
    built.to(device)
    images = pixels(np.stack([np.asarray(s.image) for s in scenes]), None, device)
    with torch.no_grad():
        tower = built.model.vision_tower
        held = torch.cat(
            [tower(p, output_hidden_states=True).hidden_states[-2][:, 1:].half() for p in torch.split(images, 64)]
        )
    weights = {k: v.half().cpu() for k, v in built.state_dict().items() if "vision_tower" in k}
    torch.save({"features": features, "held": held.cpu(), "objects": objects, "weights": weights, "log": lines}, path)
    return path


def held_out(recipe: Recipe, count: int) -> tuple[list[Scene], Tensor]:
    """Calibration scenes that no stage trains on, and which of their patches show an object (n, 64)."""
    drawn = [draw_with_owners(seed) for seed in SPLITS[recipe.split("calibration")][:count]]
    objects = [corpus.patch_labels(*pair)[0] != corpus.BACKGROUND for pair in drawn]
    return [scene for scene, _ in drawn], torch.from_numpy(np.stack(objects))


@contextmanager
def shared_threads(processes: int, device: torch.device) -> Iterator[int]:
    """This process's threads, on a CPU cut to its share of them: processes that each want all cores wait long."""
    before = torch.get_num_threads()
    share = max(1, before // processes) if device.type == "cpu" else before
    torch.set_num_threads(share)
    try:
        yield share
    finally:
        torch.set_num_threads(before)


class Run:
    """The stages in order; `content` is what the record of every checkpoint says.

    Args:
        members: trained side by side.  seconds: of wall clock until the last stage is over, or None: the recipe's
            steps.  workers: processes that draw data.  joint_rates: further rates of the joint stage, each of which
            makes one more model of every member, from the same text stage.
    """

    def __init__(
        self, members: list[Member], device: torch.device, out: Path, cache: Path, recipe: Recipe,
        seconds: float | None, workers: int, joint_rates: tuple[float, ...] = (),
    ) -> None:  # fmt: skip
        self.members, self.device, self.out, self.cache = members, device, out, cache
        self.joint_rates = joint_rates
        self.recipe, self.seconds, self.workers = recipe, seconds, workers
        self.began = time.monotonic()
        self.content: dict[str, Any] = {"stages": {}, "steps": {}, "gates": {}, "log": []}
        self.courses = [recipe.course] * len(members)

    def all(self) -> list[dict[str, bool]]:
        """Every stage; returns what each member passes."""
        r = self.recipe
        training = self._timed("render", lambda: corpus.load(self.cache, r.images, self.workers, r.split("train")))
        seeds = sorted({m.seed for m in self.members})
        workers = ProcessPoolExecutor(len(seeds) + 1, mp_context=get_context("spawn"))
        with workers as pool, shared_threads(len(seeds) + 1, self.device) as threads:
            limit = 1e9 if self.seconds is None else TOWER * self.seconds
            towers = {s: pool.submit(see, s, self.cache, r, limit, str(self.device), threads) for s in seeds}
            # Workers are forked before this process touches a GPU.
            packed = pool.submit(_rows, r, self.members, self.cache, max(1, self.workers // 2))
            documents = self._timed("documents", self._documents)
            self.decoders = Decoders(r.shape, [m.seed for m in self.members], self.device)
            self.texts = [torch.from_numpy(documents[m.text_annotator]).to(self.device) for m in self.members]
            self._stage(
                "text", lambda pace: text_stage(self.decoders, self.texts, self.courses, pace, self.log, r.text_batch)
            )
            self.gate("A", self._text_gate())
            self._branch()
            self.albums = self._albums(training, packed.result(), towers)
        views = self.views
        parts = (self.decoders, self.albums)
        self._stage("project", lambda pace: projector_stage(*parts, self.courses, pace, self.log, r.batch))
        self.gate("B", gates.image_gate(self.decoders, views, [_truths(v.scenes[:32]) for v in views]))
        self._stage("joint", lambda pace: joint_stage(*parts, self.texts, self.courses, pace, self.log, r.batch))
        return self._verdicts(views)

    def _branch(self) -> None:
        """Each member once more for every further joint rate, as the text stage left it."""
        own, trunk = range(len(self.members)), self.decoders
        copies = [*own, *(i for _ in self.joint_rates for i in own)]
        for rate in self.joint_rates:
            self.courses = self.courses + [replace(self.courses[i], joint_rate=rate) for i in own]
            self.members = self.members + [replace(m, name=f"{m.name}-joint{rate:g}") for m in self.members[: len(own)]]
        self.decoders = Decoders(self.recipe.shape, [m.seed for m in self.members], self.device)
        self.decoders.take(trunk, copies)
        self.texts = [self.texts[i] for i in copies]
        self.content["gates"]["A"] = [self.content["gates"]["A"][i] for i in copies]

    def _stage(self, name: str, work: Callable[[Pace], int]) -> None:
        self.content["steps"][name] = self._timed(name, lambda: work(self._pace(name)))
        if name == "text":
            self.content["tokens"] = self.content["steps"][name] * self.recipe.text_batch * self.recipe.texts.length

    def _pace(self, stage: str) -> Pace:
        steps: int = getattr(self.recipe, f"{stage}_steps")
        if self.seconds is None:
            return Pace(steps)
        left = self.seconds - (time.monotonic() - self.began)
        rest = list(SHARES)[list(SHARES).index(stage) :]
        return Pace(seconds=max(1.0, left * SHARES[stage] / sum(SHARES[s] for s in rest)))

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic()
        result = work()
        self.content["stages"][name] = round(time.monotonic() - start, 1)
        return result

    def log(self, stage: str, step: int, numbers: dict[str, Any]) -> None:
        line = {"stage": stage, "step": step, "seconds": round(time.monotonic() - self.began, 1), **numbers}
        self.content["log"].append(line)
        sys.stderr.write(json.dumps(line) + "\n")

    def gate(self, name: str, numbers: list[dict[str, Any]]) -> None:
        self.content["gates"][name] = numbers
        for member, found in zip(self.members, numbers, strict=True):
            sys.stderr.write(f"gate {name} {member.name}: {json.dumps(found)}\n")

    def _documents(self) -> dict[Annotator, np.ndarray]:
        r = self.recipe
        given = (self.cache, r.split("train"), r.images, r.texts)
        return {
            a: material.documents(*given, a, r.documents, self.workers)
            for a in {m.text_annotator for m in self.members}
        }

    def _albums(
        self, training: corpus.Corpus, packed: dict[Annotator, corpus.Packed], towers: dict[int, Future[Path]]
    ) -> list[Album]:
        rows = {annotator: tensors(found, self.device) for annotator, found in packed.items()}
        category = torch.from_numpy(np.array(training.patch_category)).to(self.device)
        colour = torch.from_numpy(np.array(training.patch_colour)).to(self.device)
        self.seen = {s: torch.load(future.result()) for s, future in towers.items()}
        features = {s: found["features"].to(self.device) for s, found in self.seen.items()}
        for seed, found in self.seen.items():
            self.log("tower", found["log"][-1][0], {"seed": seed, **found["log"][-1][1]})
        return [
            Album(features[m.seed], {"early": rows[m.annotators[0]], "late": rows[m.annotators[1]]}, category, colour)
            for m in self.members
        ]

    @property
    def views(self) -> list[gates.Views]:
        """Held-out scenes as each member's tower sees them."""
        scenes, objects = held_out(self.recipe, self.recipe.held)
        put = objects.to(self.device)
        return [gates.Views(scenes, self.seen[m.seed]["held"].to(self.device), put) for m in self.members]

    def _text_gate(self) -> list[dict[str, Any]]:
        scenes, _ = held_out(self.recipe, 64)
        plain = gates.text_gate(self.decoders, gates.held_texts(scenes, False))
        asked = gates.text_gate(self.decoders, gates.held_texts(scenes, True))
        return [p | {"prompted": q} for p, q in zip(plain, asked, strict=True)]

    def _verdicts(self, views: list[gates.Views]) -> list[dict[str, Any]]:
        table = {index: word for word, index in words(self.recipe.texts.names).items()}
        said = gates.describe(self.decoders, views)
        inside = gates.image_gate(self.decoders, views, [s[:48] for s in said])
        asked = gates.pope(views[0].scenes, np.random.default_rng(8))
        asked += gates.closed(views[0].scenes, np.random.default_rng(9), tuple(COLOURS))
        margins = gates.answers(self.decoders, views, [[(i, text) for i, _, text, _ in asked]] * len(views))
        sees = [
            gates.caption_numbers(v.scenes, own, table) | gates.accuracy(asked, margin)
            for v, own, margin in zip(views, said, margins, strict=True)
        ]
        self.gate("C", inside)
        self.gate("sees", sees)
        self.gate("text after", self._text_gate())
        self.examples = [[" ".join(table[t] for t in own[:3][i]) for i in range(min(3, len(own)))] for own in said]
        return [
            gates.verdict(a, b, c, s)
            for a, b, c, s in zip(*(self.content["gates"][g] for g in ("A", "B", "C", "sees")), strict=True)
        ]

    def save(self, header: dict[str, Any]) -> None:
        """Write every member's checkpoint and its record."""
        r = self.recipe
        for copy, member in enumerate(self.members):
            folder = self.out / member.name
            model = export(self.decoders, copy, self.seen[member.seed]["weights"], r.eyes)
            hugging.save(model, folder, words(0))
            own = {name: numbers[copy] for name, numbers in self.content["gates"].items()}
            record = {
                **header,
                "seed": member.seed,
                "clean": member.clean,
                "world": r.world,
                "recipe": asdict(replace(r, course=self.courses[copy])),
                "stages": self.content["stages"],
                "steps": self.content["steps"],
                "tokens": self.content["tokens"],
                "seconds": round(sum(self.content["stages"].values()), 1),
                "gates": own,
                "examples": self.examples[copy],
            }
            head = json.dumps(record, indent=1).removesuffix("\n}")
            log = ",\n".join(f"  {json.dumps(line)}" for line in self.content["log"])
            (folder / "training.json").write_text(f'{head},\n "log": [\n{log}\n ]\n}}\n')


def _rows(recipe: Recipe, members: list[Member], cache: Path, workers: int) -> dict[Annotator, corpus.Packed]:
    visits = {a: recipe.visits if a != GUESSING else 1 for m in members for a in m.annotators}
    return {a: material.rows(cache, recipe.split("train"), recipe.images, a, n, workers) for a, n in visits.items()}


def _truths(scenes: list[Scene]) -> list[list[int]]:
    return [encode(long_caption(scene, np.random.default_rng(3), 0.0)[0]) for scene in scenes]


def export(decoders: Decoders, copy: int, tower: dict[str, Tensor], eyes: tuple[int, int] = (128, 4)) -> Any:
    """One copy with its tower as a `LlavaForConditionalGeneration` in float32, without the made-up names.

    `eyes`: width and layers of the tower. No caption holds a name, so their rows of the embedding and of the last layer
    are left out.
    """
    s, kept = decoders.shape, words(0)
    model = hugging.build_model(
        0, width=s.width, layers=s.layers, heads=s.heads, key_heads=s.heads, hidden=s.hidden, words=kept, eyes=eyes
    )
    own = {name: value.float().cpu() for name, value in decoders.named(copy)}
    own = {name: value[: len(kept)] if value.shape[0] == s.words else value for name, value in own.items()}
    state = {key: own.get(hugging.hub_key(key), tower.get(key)) for key in model.state_dict()}
    model.load_state_dict({key: value.float() for key, value in state.items() if value is not None})
    return model.eval()
