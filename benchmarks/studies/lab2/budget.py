"""What the second lab's `--size large` can do in one call on one H100: measured parts, and what they add up to.

    python -m benchmarks.studies.lab2.budget --out benchmarks/results/lab2/large_budget.json

Measured here: processor time of drawing a scene, a document and a row of conversations, of both sizes. Measured on the
H100's machine, in files that are there already: what the shipped models' call took for each part (training.json), and
how many tokens a second all groups of the sweep got through side by side, beside two towers (sweep.json). Everything
under `estimates` follows from these and was not run.

A step of a larger decoder takes the longer of two times. Launching its kernels: that of the shipped models' step, by
layers. Computing: at the speed of the whole sweep, which is the least that the card can do, by weights. The tower's
step is that of the shipped models' three towers side by side, by layers.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.timing.lab2_training import tell, timed
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.lab import checkpoint
from grounddecode.lab.captions import CAREFUL
from grounddecode.lab.second import material
from grounddecode.lab.second.decoder import Shape
from grounddecode.lab.second.recipe import SHARES, SIZES, TOWER, Recipe
from grounddecode.lab.second.words import words
from grounddecode.lab.text import corpus

HERE = Path(__file__).parents[2] / "results" / "lab2"
IMAGES, DOCUMENTS, CORES = 320, 400, 16
ROW = 264  # tokens of a packed row, the image's among them


def drawn(recipe: Recipe) -> dict[str, float]:
    """Processor seconds of this machine for a scene, a document and a row."""
    split = recipe.split("train")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        scene, _ = timed(lambda: corpus.load(cache, IMAGES, 1, split), IMAGES)
        given = (cache, split, IMAGES, recipe.texts, CAREFUL, DOCUMENTS, 1)
        document, _ = timed(lambda: material.documents(*given), DOCUMENTS)
        row, _ = timed(lambda: material.rows(cache, split, IMAGES, CAREFUL, 1, 1), IMAGES)
    return {"scene": scene["processor"], "document": document["processor"], "row": row["processor"]}


def computed(shape: Shape) -> int:
    """Weights that a token is multiplied by."""
    kinds = ("qkv", "out", "up", "down", "head")
    own = {name: dims for name, dims in shape.weights().items() if not name.startswith("project")}
    return sum(math.prod(dims) for name, dims in own.items() if name.endswith(kinds))


def pace_of_sweep() -> float:
    """Products of a token and a weight a second, all groups of the sweep together in their text stages."""
    from benchmarks.studies.lab2.sweep.variants import GROUPS

    total = 0.0
    for found in json.loads((HERE / "sweep.json").read_text()):
        group = GROUPS[found["group"]]
        vocabulary = max(len(words(variant.texts.names)) for variant in group.variants)
        tokens = found["text_steps"] * len(group.variants) * 16 * 128 / found["text_seconds"]
        total += tokens * computed(Shape(words=vocabulary, layers=group.layers, heads=group.heads))
    return total


def estimates(recipe: Recipe, here: dict[str, dict[str, float]], seconds: float, members: int) -> dict[str, Any]:
    """Seconds of each part of one call, steps and tokens, for one model, or for it and its twin."""
    record = json.loads((checkpoint("lab2-seed0") / "training.json").read_text())
    took, steps, small = record["stages"], record["steps"], record["recipe"]
    # Never less than there: one process collects what sixteen draw.
    rates = {name: max(1.0, here["large"][name] / here["small"][name]) for name in ("scene", "document")}
    render = took["render"] / small["images"] * recipe.images * rates["scene"]
    # Of two annotators there, the seeds' and the twin's; here the seed's alone, or both.
    writing = took["documents"] / (2 * small["documents"]) * members * recipe.documents * rates["document"]
    left = seconds - render - writing
    looking = TOWER * record["until"] / (_tower_steps(record) + 1) * recipe.tower_layers / SIZES["small"].tower_layers
    shape, pace = recipe.shape, pace_of_sweep()
    deeper = recipe.layers / small["layers"]

    def step(stage: str, tokens: int) -> dict[str, float]:
        launching = took[stage] / steps[stage] * deeper
        computing = members * tokens * computed(shape) / pace
        return {"launching": round(1e3 * launching, 1), "computing": round(1e3 * computing, 1)}

    texts = recipe.text_batch * recipe.texts.length
    text, joint = step("text", texts), step("joint", recipe.batch * ROW + recipe.batch // 2 * recipe.texts.length)
    text_steps = SHARES["text"] * left / max(text.values()) * 1e3
    joint_steps = SHARES["joint"] * left / max(joint.values()) * 1e3
    return {
        "members": members, "seconds": seconds, "render": round(render, 1), "documents": round(writing, 1),
        "rows": round(here["large"]["row"] * recipe.images * (recipe.visits + 1) / (CORES / 2), 1),
        "text": round(SHARES["text"] * left, 1), "joint": round(SHARES["joint"] * left, 1),
        "ms a step": {"tower": round(1e3 * looking, 1), "text": text, "joint": joint},
        "tower steps": round(TOWER * seconds / looking), "text steps": round(text_steps),
        "joint steps": round(joint_steps),
        "million tokens of text": round(text_steps * texts / 1e6, 1),
        "times each document": round(text_steps * recipe.text_batch / recipe.documents, 1),
        "slowest text step for 50 M tokens, ms": round(SHARES["text"] * left / (50e6 / texts) * 1e3, 1),
    }  # fmt: skip


def _tower_steps(record: dict[str, Any]) -> int:
    """The last step that a tower has told of, when its time was over."""
    told: int = next(line["step"] for line in record["log"] if line["stage"] == "tower")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    here = {name: drawn(recipe) for name, recipe in SIZES.items()}
    large = SIZES["large"]
    amounts = (
        "images",
        "documents",
        "visits",
        "batch",
        "text_batch",
        "tower_batch",
        "width",
        "layers",
        "heads",
        "world",
    )
    result = {
        **provenance(),
        "command": "python -m benchmarks.studies.lab2.budget",
        "recipe": {name: getattr(large, name) for name in amounts},
        "measured": {
            "processor seconds here": here,
            "weights a token": {name: computed(recipe.shape) for name, recipe in SIZES.items()},
            "products a second in the sweep": round(pace_of_sweep()),
        },
        "estimates": [estimates(large, here, args.seconds, members) for members in (1, 2)],
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
