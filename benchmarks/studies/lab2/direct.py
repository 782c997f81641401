"""Do direct answers teach what yes and no do not? The second lab's joint stage goes on with questions alone.

    python -m benchmarks.studies.lab2.direct yes_no --out out/direct_yes_no.json
    python -m benchmarks.studies.lab2.direct both --out out/direct_both.json
    python -m benchmarks.studies.lab2.direct lessons --out out/direct_lessons.json

From a shipped model, with its tower frozen. Talks: `yes_no` are closed questions about colour, place, relation and
number; `both` are fewer of these, and the same asked directly ("Describe the cup." "A red cup on the left."), as many
turns in all; `lessons` are what the joint stage says, captions and questions of every kind. No texts are read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.studies.lab2.looking import CHECKPOINTS, CPU, Drawn, tell
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.lab import captions
from grounddecode.lab.model import hub_key, load_checkpoint
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.second import gates, stages, talk
from grounddecode.lab.second.decoder import AdamW, Decoders, Shape
from grounddecode.lab.second.words import encode, words
from grounddecode.lab.text import corpus
from grounddecode.lab.text import questions as q
from grounddecode.lab.world import Scene


def yes_no(scene: Scene, rng: np.random.Generator, times: int = 3) -> list[q.Turn]:
    asked = []
    for _ in range(times):
        asked += [q.attribute(scene, rng, tuple(COLOURS)), q.placement(scene, rng)]
        asked += [q.relational(scene, rng), q.number(scene, rng)]
    return asked


def both(scene: Scene, rng: np.random.Generator) -> list[q.Turn]:
    asked = [ask(scene, rng) for ask in (q.described, q.whereabouts) for _ in range(3)]
    asked += [q.related(scene, rng), q.how_many(scene, rng), *yes_no(scene, rng, 1)]
    return [asked[i] for i in rng.permutation(len(asked))]


def lessons(scene: Scene, rng: np.random.Generator) -> list[q.Turn]:
    return talk.conversation(scene, rng, captions.CAREFUL)


TALKS: dict[str, Callable[[Scene, np.random.Generator], list[q.Turn]]] = {
    "yes_no": yes_no, "both": both, "lessons": lessons,
}  # fmt: skip


def decoder_of(model: Any) -> Decoders:
    """The decoder and projector of a checkpoint; it has no made-up names, so it can read no texts of theirs."""
    text = model.config.text_config
    shape = Shape(
        text.vocab_size, text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.intermediate_size
    )
    found, state = Decoders(shape, [0], CPU), {hub_key(key): value for key, value in model.state_dict().items()}
    for name, weight in found.named(0):
        weight.copy_(state[name])
    return found


def album(training: Drawn, kind: str, visits: int) -> stages.Album:
    """What the joint stage reads: rows of one talk, in which the words that tell something weigh more."""
    parts = []
    for visit in range(visits):
        rng = np.random.default_rng([visit, 77])
        told = [TALKS[kind](scene, rng) for scene in training.scenes]
        parts.append(corpus.pack(told, True, encode, talk.weights))
    packed = corpus.Packed(*(np.concatenate(fields) for fields in zip(*map(_fields, parts), strict=True)))
    rows = {"early": stages.tensors(packed, CPU)}
    return stages.Album(training.features.half(), rows, training.labels["category"], training.labels["colour"])


def _fields(packed: corpus.Packed) -> tuple[np.ndarray, ...]:
    return packed.ids, packed.position, packed.segment, packed.label, packed.weight


def curve(decoder: Decoders, seen: stages.Album, held: Drawn, steps: int, every: int, batch: int, rate: float) -> Any:
    """Accuracy of questions about held-out scenes and the numbers of captions, every so many steps; one line each."""
    table = {index: word for word, index in words(0).items()}
    colours, views = tuple(COLOURS), [gates.Views(held.scenes, held.features.half(), held.objects)]
    asked = [one for seed in (9, 10) for one in gates.closed(held.scenes, np.random.default_rng(seed), colours)]
    asked += gates.pope(held.scenes, np.random.default_rng(8))
    optimiser, spent = AdamW(decoder, [rate], [0.1], betas=(0.9, 0.98)), 0.0
    torch.manual_seed(1)
    for step in range(steps + 1):
        if step % every == 0:
            margin = gates.answers(decoder, views, [[(i, text) for i, _, text, _ in asked]])[0]
            said = gates.describe(decoder, views)[0]
            seen_in = gates.caption_numbers(held.scenes, said, table)
            yield {"step": step, "processor_seconds": round(spent), **gates.accuracy(asked, margin), **seen_in}
        began, done = time.process_time(), step / steps
        loss = stages.image_loss(decoder, [seen], [stages.some_rows(seen, "early", batch)])
        torch.autograd.backward(loss.sum())
        optimiser.step(
            stages.fall(done, step, tail=0.6, warmup=30) if done > 0.4 else stages.fall(0.0, step, warmup=30)
        )
        spent += time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talk", choices=TALKS)
    parser.add_argument("--model", default="lab2-seed0")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--held", type=int, default=192)
    parser.add_argument("--visits", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = provenance()  # of the tree that it was started from
    model, _ = load_checkpoint(CHECKPOINTS / args.model)
    held, training = Drawn(model, "calibration2", args.held), Drawn(model, "train2", args.images)
    seen, lines = album(training, args.talk, args.visits), []
    for line in curve(decoder_of(model), seen, held, args.steps, args.every, args.batch, args.rate):
        print(json.dumps(line), flush=True)
        lines.append(line)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    tell({**about, "settings": settings, "curve": lines}, args.out)


if __name__ == "__main__":
    main()
