"""How long the second lab's training takes on two cores: each stage timed for a few steps, and what that adds up to.

    python -m benchmarks.timing.lab2_training --out benchmarks/results/lab2/training_time.json

Every stage runs as `grounddecode.lab.train --lab 2` runs it, on documents and conversations about 320 scenes, in one
thread and in two. Processor time is what other work on the machine disturbs least: the projection is made of that of
one thread. Two cores take the longest of three chains until the text stage is over (documents and text; tower; rows),
or half of their sum where that is more; then the projector and the joint stage run alone, in one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from grounddecode.evaluate.run.provenance import provenance
from grounddecode.lab import model as hugging
from grounddecode.lab.captions import CAREFUL
from grounddecode.lab.second import material
from grounddecode.lab.second.decoder import Decoders
from grounddecode.lab.second.recipe import Recipe
from grounddecode.lab.second.stages import Album, Pace, joint_stage, projector_stage, tensors, text_stage
from grounddecode.lab.second.tower import train_tower
from grounddecode.lab.text import corpus
from grounddecode.lab.training.vision import cache_features

CPU = torch.device("cpu")
IMAGES, DOCUMENTS = 320, 400


def timed(work: Callable[[], Any], count: int) -> tuple[dict[str, float], Any]:
    """Seconds a piece by the clock and of processor time, and the result."""
    clock, processor = time.perf_counter(), sum(os.times()[:4])  # of child processes too
    result = work()
    spent = {"clock": time.perf_counter() - clock, "processor": sum(os.times()[:4]) - processor}
    return {name: round(value / count, 5) for name, value in spent.items()}, result


def quiet(*_: object) -> None:
    """A log that nobody reads."""


def stages(recipe: Recipe, steps: int, cache: Path) -> dict[str, dict[str, float]]:
    """Seconds a scene, document, row, feature map or step of each part of one member's training."""
    told: dict[str, dict[str, float]] = {}
    told["scene"], drawn = timed(lambda: corpus.load(cache, IMAGES, 1, recipe.split("train")), IMAGES)
    texts = (cache, recipe.split("train"), IMAGES, recipe.texts, CAREFUL, DOCUMENTS, 1)
    told["document"], documents = timed(lambda: material.documents(*texts), DOCUMENTS)
    told["row"], packed = timed(lambda: material.rows(cache, recipe.split("train"), IMAGES, CAREFUL, 1, 1), IMAGES)
    built = hugging.build_model(0)
    tower = lambda: train_tower(built, drawn, 0, Pace(steps), CPU, lambda m: m, quiet)  # noqa: E731
    told["tower step"], _ = timed(tower, steps)
    told["features"], features = timed(lambda: cache_features(built, drawn, 0, CPU), IMAGES)
    rows, put = tensors(packed, CPU), torch.from_numpy
    album = Album(features, {"early": rows, "late": rows}, put(drawn.patch_category), put(drawn.patch_colour))
    decoders, books, courses = Decoders(recipe.shape, [0], CPU), [put(documents)], [recipe.course]
    given = (courses, Pace(steps), quiet, recipe.batch)
    told["text step"], _ = timed(lambda: text_stage(decoders, books, *given), steps)
    told["project step"], _ = timed(lambda: projector_stage(decoders, [album], *given), steps)
    told["joint step"], _ = timed(lambda: joint_stage(decoders, [album], books, *given), steps)
    return told


def minutes(told: dict[str, dict[str, float]], recipe: Recipe) -> dict[str, float]:
    """What the recipe's amounts take by processor time of one thread, part by part, and all of it on two cores."""
    counts = {
        "scene": recipe.images, "document": recipe.documents, "row": recipe.images * (recipe.visits + 1),
        "tower step": recipe.tower_steps, "features": recipe.images, "text step": recipe.text_steps,
        "project step": recipe.project_steps, "joint step": recipe.joint_steps,
    }  # fmt: skip
    parts = {name: told[name]["processor"] * count / 60 for name, count in counts.items()}
    chains = (parts["document"] + parts["text step"], parts["tower step"] + parts["features"], parts["row"])
    first = max(*chains, sum(chains) / 2)
    whole = parts["scene"] / 2 + first + parts["project step"] + parts["joint step"]
    return {name: round(value, 1) for name, value in parts.items()} | {"on two cores": round(whole, 1)}


def tell(result: dict[str, Any], out: Path | None) -> None:
    """Print a result as JSON, and write it where a file is named."""
    text = json.dumps(result, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16, help="of each stage")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recipe, found = Recipe(), {}
    for threads in args.threads:
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:
            told = stages(recipe, args.steps, Path(folder))
        found[f"threads {threads}"] = {"seconds": told, "load": round(os.getloadavg()[0], 1)}
    amounts = ("images", "documents", "visits", "tower_steps", "text_steps", "project_steps", "joint_steps", "batch")
    result = {
        "command": f"python -m benchmarks.timing.lab2_training --steps {args.steps}",
        "recipe": {name: getattr(recipe, name) for name in (*amounts, "width", "layers", "heads")},
        "measured": found,
        "minutes": minutes(found["threads 1"]["seconds"], recipe),
        **provenance(),
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
