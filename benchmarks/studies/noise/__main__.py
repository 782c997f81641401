"""How far the lab's training flatters VCD: a seed trained without noised pictures, beside the shipped ones.

    python -m grounddecode.lab.train --noised 0 --seed 0 --out out/noise0  # the model, which is not shipped
    python -m benchmarks.studies.noise --checkpoint out/noise0 --out benchmarks/results/lab/noise

The second command asks recipes/lab_noise.yaml of seed 0 and of that model and writes noise.json and noise.md. The two
are compared picture by picture: what a plan gains over greedy on one, less what it gains on the other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.studies.lab2.dials import invented
from benchmarks.studies.lab_engine import ask
from benchmarks.studies.lab_table import RESULTS, compact
from benchmarks.studies.noise.page import SHIPPED, WITHOUT, page
from grounddecode.engines.base import open_engine
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.intervals import Counts, Floats, count, differences, divide
from grounddecode.evaluate.run.recipe import read
from grounddecode.evaluate.scoring import chair
from grounddecode.evaluate.scoring.pope import says_yes
from grounddecode.registry import GREEDY

RECIPE = Path(__file__).parents[2] / "recipes" / "lab_noise.yaml"
FOLDER = Path("out/lab_noise")
MODULE, RESAMPLES = "python -m benchmarks.studies.noise", 2000
#: Where rows of the other seeds are taken from, the larger run first.
OTHERS = {"bar.json": "evaluation", "contrasts.json": "checkpoints", "peers.json": "checkpoints"}
SEEDS = ("seed1", "seed2")
#: What of an answer counts, and out of how much.
Parts = Callable[[Mapping[str, Any]], tuple[float, float]]


def parts(record: Mapping[str, Any]) -> tuple[float, float]:
    """What of an answer counts and out of how much: invented mentions of a caption, or whether a question is right."""
    if record["benchmark"] == "chair":
        wrong, named = invented(record)
        return float(wrong), float(named)
    return float(says_yes(record["response"]) == (record["label"] == "yes")), 1.0


def seen(record: Mapping[str, Any]) -> tuple[float, float]:
    """How many of the objects that are there a caption names, and how many there are."""
    named = {mention[1] for mention in chair.mentions(record["response"])}
    return float(len(named & set(record["truth"]))), float(len(set(record["truth"])))


def arms(records: Iterable[Mapping[str, Any]], spec: str, counted: Parts = parts) -> Counts:
    """Counts by picture of a plan and of greedy on one model, so that the gain of the plan can be told."""
    rows, pictures = [], []
    for record in records:
        if record["method"] in (spec, GREEDY):
            part, whole = counted(record)
            own = record["method"] == spec
            rows.append({"own": part * own, "of": whole * own, "base": part * (not own), "all": whole * (not own)})
            pictures.append(record["image_id"])
    return count(pictures, rows)


def gain(sums: Mapping[str, Floats]) -> dict[str, Floats]:
    """A plan's rate less greedy's, of the counts of `arms`."""
    return {"gain": divide(sums["own"], sums["of"]) - divide(sums["base"], sums["all"])}


def apart(without: Path, shipped: Path, spec: str) -> dict[str, list[float | None]]:
    """The plan's gain without noised pictures less that of the shipped seed, with 95 % over pictures."""
    sides = [[r for r in RunFolder(folder).records() if r["status"] == "ok"] for folder in (without, shipped)]
    told = {}
    measures = {"chair_i": (_captions, parts), "recall": (_captions, seen), "accuracy": (_adversarial, parts)}
    for name, (belongs, counted) in measures.items():
        ours, theirs = (arms(filter(belongs, records), spec, counted) for records in sides)
        point, bounds = differences(ours, theirs, gain, RESAMPLES)["gain"]
        told[name] = [None if value is None else round(value, 4) for value in (point, *bounds)]
    return told


def _captions(record: Mapping[str, Any]) -> bool:
    return bool(record["benchmark"] == "chair")


def _adversarial(record: Mapping[str, Any]) -> bool:
    return bool(record["benchmark"] == "pope" and record["split"] == "adversarial")


def others(specs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Rows of the other seeds as their own tables have them, each with how many captions it rests on."""
    runs = {file: json.loads((RESULTS[1] / file).read_text(encoding="utf-8"))[key] for file, key in OTHERS.items()}
    found: dict[str, dict[str, Any]] = {name: {} for name in SEEDS}
    for name, rows in found.items():
        for spec in specs:
            for file, tables in runs.items():
                if spec in tables[name]["methods"] and spec not in rows:
                    own = tables[name]["methods"][spec]
                    rows[spec] = {"from": file, "n": tables[name]["n"]["captions"], **headlines(own)}
    return found


def headlines(row: Mapping[str, Any]) -> dict[str, list[float]]:
    """Differences from greedy of a row of a table."""
    captions, pope = row["chair"], row["pope"]["adversarial"]
    return {
        "chair_i": captions["chair_i"]["vs_greedy"],
        "recall": captions["recall"]["vs_greedy"],
        "accuracy": pope["accuracy"]["vs_greedy"],
        "yes_ratio": pope["yes_ratio"]["vs_greedy"],
    }


def trained(folder: Path) -> dict[str, Any]:
    """How the model came about, from what its training wrote beside it.

    Raises:
        SystemExit: it has seen noised pictures, or nothing says that it has not.
    """
    told = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if told["recipe"].get("noised") != 0:
        raise SystemExit(f"{folder} was trained with noised pictures: python -m grounddecode.lab.train --noised 0")
    weights = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return {
        "command": f"python -m grounddecode.lab.train --noised 0 --seed {told['seed']} --out {folder}",
        "weights": weights,
        **{key: told[key] for key in ("seed", "recipe", "hardware", "stages", "seconds")},
    }


def measure(model: str, name: str, limit: int) -> Path:
    """The run folder of one model."""
    out, plans = FOLDER / name, read(RECIPE).methods
    ask(RECIPE, open_engine("hf", model), model, plans, out, limit=limit)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("out/noise0"), help="the model trained with --noised 0")
    parser.add_argument("--out", type=Path, default=RESULTS[1] / "noise", help="without the ending: .json and .md")
    parser.add_argument("--limit", type=int, default=read(RECIPE).limit, help="captions, and questions of each split")
    args = parser.parse_args()
    training = trained(args.checkpoint)
    shipped, without = measure("lab:seed0", "seed0", args.limit), measure(str(args.checkpoint), "noise0", args.limit)
    plans = [spec for spec in read(RECIPE).methods if spec != GREEDY]
    table = {
        "command": training["command"],
        "writer": f"{MODULE} --checkpoint {args.checkpoint}",
        "tuned": {},
        "training": training,
        "checkpoints": {SHIPPED: compact(shipped), WITHOUT: compact(without)},
        "apart": {spec: apart(without, shipped, spec) for spec in plans},
        "others": others(plans),
    }
    args.out.with_suffix(".json").write_text(json.dumps(table, separators=(",", ":")) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    main()
