"""One setting for all seeds, against a stated bar: chosen on calibration scenes, shown once on evaluation scenes.

python -m benchmarks.studies.lab_bar choose  # recipes/lab_bar.yaml on three seeds, writes results/lab/bar.json
python -m benchmarks.studies.lab_bar run     # the chosen on 500 evaluation scenes of the four checkpoints
python -m benchmarks.studies.lab_bar write   # adds the verdict to bar.json, writes bar.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.lab_tuning import RESULTS, row
from grounddecode.evaluate.run.runner import run
from grounddecode.registry import GREEDY

RECIPE = Path(__file__).parents[1] / "recipes" / "lab_bar.yaml"
FOLDER, RESULT = Path("out/lab_bar"), RESULTS / "bar.json"
SEEDS = ("seed0", "seed1", "seed2")
CUT, RECALL, ACCURACY, HARM = 0.30, 0.01, 0.05, 0.005
RULE = (
    "of the settings that on every seed lose at most 1 point of recall, gain at least 5 points of accuracy on POPE "
    "adversarial and do not say yes more often there, the one whose smallest relative cut of CHAIR_i over the seeds is "
    "the largest"
)


def told(text: Any) -> None:
    print(f"{text.done}/{text.total} {text.method} {text.note}", file=sys.stderr)


def graded(rows: Mapping[str, Mapping[str, Any]], spec: str) -> dict[str, float]:
    """What the bar looks at, of one plan on one checkpoint; differences are from greedy."""
    own, base = rows[spec], rows[GREEDY]
    return {
        "cut": round(1 - own["chair_i"] / base["chair_i"], 4) if base["chair_i"] else 0.0,
        **{
            name: round(own[key] - base[key], 4)
            for name, key in (("recall", "recall"), ("pope", "pope_adversarial"), ("yes", "yes_adversarial"))
        },
        "chair_i": round(own["chair_i"] - base["chair_i"], 4),
    }


def allowed(found: Mapping[str, float]) -> bool:
    """Whether a plan costs no more recall than the bar lets it, and mends POPE."""
    return found["recall"] >= -RECALL and found["pope"] >= ACCURACY and found["yes"] <= 0


def choose(seeds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str | None:
    """The plan that the rule names, from rows by plan by seed; None where no plan is allowed on every seed."""
    worst = {}
    for spec in seeds[next(iter(seeds))]:
        found = [graded(rows, spec) for rows in seeds.values()]
        if spec != GREEDY and all(map(allowed, found)):
            worst[spec] = min(one["cut"] for one in found)
    return max(worst, key=worst.__getitem__) if worst else None


def calibrate() -> None:
    """The grid on the calibration scenes of each seed, and what is chosen from it."""
    seeds, made = {}, {}
    for name in SEEDS:
        metrics = run(RECIPE, FOLDER / f"calibration-{name}", told, model=f"lab:{name}")
        seeds[name] = {spec: row(found) for spec, found in metrics["results"].items()}
        made = metrics["run"]
    result = {
        "rule": RULE,
        "chosen": choose(seeds),
        "settings": {key: made["settings"][key] for key in ("split", "limit", "batch_size", "seed", "questions")},
        **{key: made[key] for key in ("versions", "commit", "hardware")},
        "calibration": {
            spec: {name: graded(rows, spec) for name, rows in seeds.items()}
            for spec in seeds[SEEDS[0]]
            if spec != GREEDY
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(result["chosen"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose",))
    parser.parse_args()
    calibrate()


if __name__ == "__main__":
    main()
