"""One group of variants side by side: the text stage of all, then images for those nearest to gate A."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.studies.lab2.sweep.data import wait
from benchmarks.studies.lab2.sweep.variants import FOLLOW, GROUPS, HELD, Follow, amounts, settings
from grounddecode.lab import captions
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.second import documents as docs
from grounddecode.lab.second import gates
from grounddecode.lab.second.decoder import Decoders, Shape
from grounddecode.lab.second.stages import Album, Course, Pace, joint_stage, projector_stage, tensors, text_stage
from grounddecode.lab.second.words import encode, words
from grounddecode.lab.text import corpus

ANNOTATED = {"careful": "early", "liberal": "late"}


def score(a: dict[str, Any]) -> float:
    """How near a text training is to gate A."""
    return float(min(1.0, a["heads"] / 0.25) + min(1.0, a["largest"] / 0.9) + a["mean_share"])


class Training:
    """The stages of one group; `result` is what its file holds after each of them."""

    def __init__(self, folder: Path, name: str, toy: bool, until: float, began: float) -> None:
        self.folder, self.name, self.toy, self.until, self.began = folder, name, toy, until, began
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.amounts, own = amounts(toy), GROUPS[name]
        self.variants = own.variants[:2] if toy else own.variants
        self.joint = min(2, own.joint) if toy else own.joint
        count = max(len(words(v.texts.names)) for v in self.variants)
        self.shape = Shape(words=-(-count // 8) * 8, layers=own.layers, heads=own.heads)
        self.result: dict[str, Any] = {"group": name, "text": {}, "joint": {}, "log": []}

    def pace(self, share: float) -> Pace:
        """Until this share of the whole time is over."""
        end = self.began + share * (self.until - self.began)
        return Pace(4 if self.toy else 10**9, max(0.5, end - time.time()))

    def log(self, stage: str, step: int, numbers: dict[str, Any]) -> None:
        self.result["log"].append([stage, step, round(time.time() - self.began, 1), numbers])

    def keep(self) -> None:
        (self.folder / f"result-{self.name}.json").write_text(json.dumps(self.result))

    def need(self, name: str) -> Path:
        """A file of the data that is there once its mark is.

        Raises:
            RuntimeError: it has not come in time.
        """
        if not wait(self.folder / name, self.until):
            raise RuntimeError(f"{name} was not there in time: give more --seconds")
        return self.folder / name

    def scenes(self, look: str) -> list[Any]:
        """Those that no training sees."""
        drawn: list[Any] = pickle.loads((self.folder / f"{look}-scenes.pkl").read_bytes())
        return drawn[-HELD:]

    def texts(self) -> list[int]:
        """Train all variants on text alone; their order from the nearest to gate A on."""
        self.need("docs")
        keys = settings()
        numbers = [keys.index(v.texts) for v in self.variants]
        files = {k: np.load(self.folder / f"docs-{k}.npy") for k in set(numbers)}
        loaded = {k: torch.from_numpy(rows).to(self.device) for k, rows in files.items()}
        self.documents = [loaded[k] for k in numbers]
        self.decoders = Decoders(self.shape, [v.seed for v in self.variants], self.device)
        courses = [Course(rate=v.rate, decay=v.decay) for v in self.variants]
        start = time.time()
        steps = text_stage(self.decoders, self.documents, courses, self.pace(0.43), self.log, self.amounts["batch"])
        self.result |= {"text_steps": steps, "text_seconds": round(time.time() - start, 1)}
        return self._read()

    def _read(self) -> list[int]:
        scenes = self.scenes("full")
        babble = [[2, *row] for row in docs.spoken(300, 48, 60, np.random.default_rng(4)).tolist()]
        read = {
            "caption": gates.held_texts(scenes[:64], False),
            "prompted": gates.held_texts(scenes[:64], True),
            "language of 300": babble,
            "documents": [self.documents[0][i].tolist() for i in range(32)],
        }
        found = {kind: gates.text_gate(self.decoders, texts) for kind, texts in read.items()}
        for i, v in enumerate(self.variants):
            self.result["text"][v.name] = {"variant": asdict(v), **{kind: rows[i] for kind, rows in found.items()}}
        self.keep()
        return sorted(range(len(self.variants)), key=lambda i: -score(found["caption"][i]))

    def images(self, order: list[int], out: Path) -> None:
        """The projector's and the joint stage of those that go on, and what they are like after each."""
        first, second, third = (order[min(i, len(order) - 1)] for i in range(3))
        pairs = (
            (first, FOLLOW[0]), (second, FOLLOW[0]), (first, FOLLOW[1]), (first, FOLLOW[2]), (third, FOLLOW[0]),
            (first, FOLLOW[3]),
        )  # fmt: skip
        self.plan: list[tuple[int, Follow]] = list(pairs[: self.joint])
        self.names = [
            f"{self.variants[i].name}|{f.look} text {f.text}{'' if f.stage1 else ' no stage 1'}" for i, f in self.plan
        ]
        worlds = {look: self._world(look) for look in {f.look for _, f in self.plan}}
        self.albums = [worlds[f.look][0] for _, f in self.plan]
        self.views = [worlds[f.look][1] for _, f in self.plan]
        self.courses = [Course(text_share=f.text, align=f.align) for _, f in self.plan]
        self.both = Decoders(self.shape, [0] * len(self.plan), self.device)
        self.both.take(self.decoders, [i for i, _ in self.plan])
        self._fresh_projectors()
        self._project()
        self._together(out)

    def _world(self, look: str) -> tuple[Album, gates.Views]:
        stored = torch.load(self.need(f"{look}-features").with_suffix(".pt"))
        n, rows = len(stored["features"]), {}
        for annotator, part in ANNOTATED.items():
            with np.load(self.need(f"{look}-{annotator}").with_suffix(".npz")) as file:
                rows[part] = tensors(corpus.Packed(**{k: file[k] for k in file.files}), self.device)
        category, colour = (torch.from_numpy(np.load(self.folder / f"{look}-{x}.npy")) for x in ("category", "colour"))
        album = Album(
            stored["features"].to(self.device), rows, category[:n].to(self.device), colour[:n].to(self.device)
        )
        objects = (category[-HELD:] != corpus.BACKGROUND).to(self.device)
        return album, gates.Views(self.scenes(look), stored["held"].to(self.device), objects)

    @torch.no_grad()
    def _fresh_projectors(self) -> None:
        # Ordinary ones: the text stage has none.
        fresh = Decoders(self.shape, [77 + i for i in range(len(self.plan))], self.device)
        for key in self.both.weights:
            if key.startswith("project"):
                self.both.weights[key].copy_(fresh.weights[key])

    def _some(self, count: int) -> list[gates.Views]:
        return [gates.Views(v.scenes[:count], v.features[:count], v.objects[:count]) for v in self.views]

    def _project(self) -> None:
        before = {k: w.detach().clone() for k, w in self.both.weights.items() if k.startswith("project")}
        steps = projector_stage(self.both, self.albums, self.courses, self.pace(0.52), self.log, self.amounts["batch"])
        true = [
            [encode(captions.long_caption(s, np.random.default_rng(3), 0.0)[0]) for s in v.scenes[:32]]
            for v in self.views
        ]
        inside = gates.image_gate(self.both, self._some(32), true)
        for label, numbers in zip(self.names, inside, strict=True):
            self.result["joint"][label] = {"gate_b": numbers, "stage1_steps": steps}
        with torch.no_grad():
            for copy, (_, f) in enumerate(self.plan):
                for key, weight in before.items() if not f.stage1 else ():
                    self.both.weights[key][copy] = weight[copy]
        self.keep()

    def _together(self, out: Path) -> None:
        texts, start = [self.documents[i] for i, _ in self.plan], time.time()
        batch = self.amounts["batch"]
        steps = joint_stage(self.both, self.albums, texts, self.courses, self.pace(0.88), self.log, batch)
        for label in self.names:
            self.result["joint"][label] |= {"steps": steps, "seconds": round(time.time() - start, 1)}
        self.keep()
        inside = self._judge()
        self.keep()
        self._save(inside, out)

    def _judge(self) -> list[dict[str, Any]]:
        table, short = {i: w for w, i in words(2000).items()}, self._some(self.amounts["eval"])
        said = gates.describe(self.both, short)
        inside = gates.image_gate(self.both, self._some(48), [s[:48] for s in said])
        after = gates.text_gate(self.both, gates.held_texts(self.scenes("full")[:64], False))
        asked = [
            gates.pope(v.scenes, np.random.default_rng(8))
            + gates.closed(v.scenes, np.random.default_rng(9), tuple(COLOURS))
            for v in short
        ]
        longest = max(map(len, asked))
        filled = [[(own[i % len(own)][0], own[i % len(own)][2]) for i in range(longest)] for own in asked]
        margins = gates.answers(self.both, short, filled)
        for copy, label in enumerate(self.names):
            own = asked[copy]
            self.result["joint"][label] |= {
                "captions": gates.caption_numbers(short[copy].scenes, said[copy], table),
                "gate_c": inside[copy],
                "text_gate_after": after[copy],
                "closed": gates.accuracy(own, margins[copy][: len(own)]),
                "examples": [" ".join(table[t] for t in s) for s in said[copy][:2]],
            }
        return inside

    def _save(self, inside: list[dict[str, Any]], out: Path) -> None:
        def sunk(copy: int) -> float:
            c = inside[copy]
            return float(c["bos_heads"] + c["fires_background"] * (0.05 <= c["fires"] <= 0.4))

        best = sorted(range(len(self.plan)), key=lambda copy: -sunk(copy))
        for copy in best[: 2 if GROUPS[self.name].joint > 2 else 1]:
            weights = {k: w.half().cpu().contiguous() for k, w in self.both.named(copy)}
            weights |= torch.load(self.folder / f"{self.plan[copy][1].look}-tower.pt")["weights"]
            told = {"name": self.names[copy], "heads": str(self.shape.heads)}
            save_file(weights, out / f"sweep1-{self.name}-{copy}.safetensors", metadata=told)


def train(folder: Path, name: str, toy: bool, until: float, began: float, out: Path) -> None:
    """All stages of one group."""
    torch.backends.cuda.matmul.allow_tf32 = True
    training = Training(folder, name, toy, until, began)
    order = training.texts()
    if training.joint:
        training.images(order, out)
