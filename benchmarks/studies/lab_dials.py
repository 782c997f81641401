"""What of CHAIR and POPE is by construction: the lab's own dials, turned one at a time.

    python -m benchmarks.studies.lab_dials train     # out/lab_dials/SEED-GUESS: models that differ in their annotators
    python -m benchmarks.studies.lab_dials write     # results/lab/dials.json, dials.md

Annotators that guess: the shipped seeds 0 and 1 go on for 120 steps (their own last stage took 300),
on the same pictures in the same order, with annotators who never guess, guess in half of the places, or as those of
the shipped models do. Background share: the captions of the second lab's run folders (`lab_table run --lab 2`), in
thirds of scenes by how many patches show no object. Noise on training pictures: see results/lab/noiseless.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.run.recipe import Recipe
from grounddecode.evaluate.run.runner import bench
from grounddecode.evaluate.scoring import chair
from grounddecode.lab import CHECKPOINTS, checkpoint
from grounddecode.lab.captions import CLEAN, LIBERAL, Annotator
from grounddecode.lab.model import load_checkpoint, save
from grounddecode.lab.text import corpus as data
from grounddecode.lab.training.language import train_language
from grounddecode.lab.training.vision import cache_features
from grounddecode.lab.world import draw_with_owners
from grounddecode.registry import GREEDY

FOLDER, SECOND = Path("out/lab_dials"), Path("out/lab2")
RESULTS = Path(__file__).parents[1] / "results" / "lab"
SEEDS = ("seed0", "seed1")
GUESS = {"never": CLEAN, "half": Annotator(LIBERAL.pad / 2, LIBERAL.mined / 2), "shipped": LIBERAL}
METHODS = (GREEDY, "heads", "vcd:share=0.9", "sid")
IMAGES, STEPS, RATE, CAPTIONS = 4000, 120, 8e-4, 150
THIRDS = ("least background", "middle", "most background")


def train(seed: str, guess: str) -> None:
    """One model that went on with other annotators, and its run folder."""
    out, device = FOLDER / f"{seed}-{guess}", torch.device("cpu")
    model, _ = load_checkpoint(checkpoint(seed))
    corpus = data.load(FOLDER / "cache", IMAGES, workers=1)
    number = int(seed.removeprefix("seed"))
    features = cache_features(model, corpus, number, device)
    model.train()
    train_language(
        model, corpus, features, number, STEPS, device, lambda module: module,
        lambda *line: print(*line, file=sys.stderr), stage="settle", annotator=GUESS[guess], rate=RATE,
    )  # fmt: skip
    save(model.eval(), out / "model")
    recipe = Recipe(
        model=str(out / "model"), methods=METHODS, benchmarks=("pope", "chair"), limit=CAPTIONS, batch_size=25
    )
    bench(recipe, out=out / "run")


def told(found: Mapping[str, Any]) -> dict[str, Any]:
    """Greedy's numbers with their intervals, and the differences of the others from it."""
    rows: dict[str, Any] = {}
    for spec, row in found.items():
        parts = {"chair_i": row["chair"], "recall": row["chair"], "accuracy": row["pope"]["adversarial"]}
        rows[spec] = {key: _number(block, key) for key, block in parts.items()}
    return rows


def _number(block: Mapping[str, Any], key: str) -> list[float]:
    if "vs_greedy" not in block:
        return [round(value, 4) for value in (block[key], *block["ci"][key])]
    against = block["vs_greedy"][key]
    return [round(value, 4) for value in (against["difference"], *against["ci"])]


def background(scene: int) -> float:
    """Share of the patches of a drawn scene that show no object."""
    return float((data.patch_labels(*draw_with_owners(scene))[0] == data.BACKGROUND).mean())


def by_background(folder: Path) -> dict[str, dict[str, list[float]]]:
    """CHAIR_i of each plan of a run in thirds of its scenes by background; of the others the difference from greedy."""
    records = [r for r in RunFolder(folder).records() if r["status"] == "ok" and r["benchmark"] == "chair"]
    shares = {r["sample_id"]: background(int(r["image_id"])) for r in records if r["method"] == GREEDY}
    edges = np.quantile(list(shares.values()), [1 / 3, 2 / 3])
    counted: dict[str, dict[str, tuple[int, int]]] = {}
    for record in records:
        named = [mention[1] for mention in chair.mentions(record["response"])]
        wrong = sum(name not in record["truth"] for name in named)
        counted.setdefault(record["method"], {})[record["sample_id"]] = (wrong, len(named))
    third = {sample: THIRDS[int(np.searchsorted(edges, share))] for sample, share in shares.items()}
    return {
        name: {
            spec: _rates([s for s in third if third[s] == name], own, counted[GREEDY] if spec != GREEDY else None)
            for spec, own in counted.items()
        }
        for name in THIRDS
    }


def _rates(
    samples: list[str], own: Mapping[str, tuple[int, int]], base: Mapping[str, tuple[int, int]] | None
) -> list[float]:
    """CHAIR_i or its difference from another plan's, with 95 % over images."""
    draws = np.random.default_rng(0).integers(0, len(samples), (2000, len(samples)))

    def rate(counts: Mapping[str, tuple[int, int]]) -> tuple[float, np.ndarray]:
        table = np.array([counts[s] for s in samples], float)
        sums = table[draws].sum(1)
        return table[:, 0].sum() / table[:, 1].sum(), sums[:, 0] / sums[:, 1]

    value, spread = rate(own)
    if base is not None:
        other, others = rate(base)
        value, spread = value - other, spread - others
    return [round(float(v), 4) for v in (value, *np.quantile(spread, [0.025, 0.975]))]


def collect() -> dict[str, Any]:
    """Everything that the page shows."""
    annotators, made = {}, {}
    for seed in SEEDS:
        for guess in GUESS:
            path = FOLDER / f"{seed}-{guess}" / "run" / "metrics.json"
            if path.is_file():
                metrics = json.loads(path.read_text(encoding="utf-8"))
                annotators[f"{seed} {guess}"] = told(metrics["results"])
                made = {key: metrics["run"][key] for key in ("versions", "commit", "hardware")}
    thirds = {name: by_background(SECOND / name) for name in CHECKPOINTS if (SECOND / name / "metrics.json").is_file()}
    return {
        "command": "python -m benchmarks.studies.lab_dials train && python -m benchmarks.studies.lab_dials write",
        "guess": {name: asdict(annotator) for name, annotator in GUESS.items()},
        "images": IMAGES, "steps": STEPS, "rate": RATE, "captions": CAPTIONS,
        "annotators": annotators, "background": thirds, **made,
    }  # fmt: skip


def page(found: Mapping[str, Any]) -> str:
    """All of dials.md."""
    shares = ", ".join(f"{name} {annotator['pad']:.2f}" for name, annotator in found["guess"].items())
    guessing = (
        f"The first lab's seed 0 and seed 1, trained on for {found['steps']} steps on the same pictures; only the "
        "annotators differ. Where something is left to say they add an absent object that suits the scene in a share "
        f"of the cases: {shares}. {found['captions']} captions and POPE questions a split."
    )
    parts = [
        "# What is by construction: the lab's dials",
        "<!-- Written by benchmarks/studies/lab_dials.py: run it again, do not edit this file. -->",
        "In percent, with 95 % intervals over pictures: greedy's numbers, and of the others the differences from them. "
        f"Made by `{found['command']}`.",
        "## Annotators that guess",
        guessing,
        _table(_annotated(found["annotators"])),
        "## Share of background",
        "CHAIR_i of the second lab's models on 160 evaluation scenes, in thirds by the share of patches without an "
        "object. A third holds 53 or 54 scenes: read the direction, not the digit.",
        _table(_thirds(found["background"])),
        "## Noise on training pictures",
        "One picture in ten is noised in the training of every shipped model; [noiseless.md](noiseless.md) has a model "
        "without.",
    ]
    return "\n\n".join(parts) + "\n"


def _annotated(rows: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["model, annotators guess", "plan", "CHAIR_i", "recall", "POPE adversarial"]
    for name, plans in rows.items():
        for spec, numbers in plans.items():
            yield [name, f"`{spec}`", *(_shown(numbers[k], spec) for k in ("chair_i", "recall", "accuracy"))]


def _thirds(models: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["model", "plan", *THIRDS]
    for name, thirds in models.items():
        for spec in (s for s in (GREEDY, "heads", "sid", "vcd", "avc", "var") if s in thirds[THIRDS[0]]):
            yield [name, f"`{spec}`", *(_shown(thirds[third][spec], spec) for third in THIRDS)]


def _shown(number: Iterable[float], spec: str) -> str:
    sign = "" if spec == GREEDY else "+"
    value, low, high = (f"{100 * part:{sign}.1f}" for part in number)
    return f"{value} [{low}, {high}]"


def _table(rows: Iterator[list[str]]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "write"))
    args = parser.parse_args()
    if args.what == "train":
        torch.set_num_threads(1)
        for seed in SEEDS:
            for guess in GUESS:
                train(seed, guess)
        return
    found = collect()
    (RESULTS / "dials.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "dials.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
