"""Settings for the second lab, chosen on calibration scenes of its seed 1 by the rule of the first lab.

    python -m benchmarks.studies.lab2.tuning  # runs recipes/lab2_tuning.yaml, writes results/lab2/tuning.json

No scene of the evaluation split is seen here, and seeds 0, 2 and the clean twin get the same settings untouched.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.studies.lab_tuning import RULE, choose, row
from grounddecode.evaluate.run.recipe import read
from grounddecode.evaluate.run.runner import run
from grounddecode.registry import GREEDY

HERE = Path(__file__).parents[2]
RECIPE, RESULT = HERE / "recipes" / "lab2_tuning.yaml", HERE / "results" / "lab2" / "tuning.json"


def chosen() -> dict[str, str]:
    """The chosen plan of each method that has one, as committed."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))["chosen"]
    return {name: spec for name, spec in found.items() if spec}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("out/lab2/tuning"), help="run folder; the same one resumes")
    args = parser.parse_args()
    if read(RECIPE).split != "calibration":
        raise SystemExit(f"{RECIPE.name} would tune on the split {read(RECIPE).split}: tune on calibration")
    metrics = run(RECIPE, args.run, lambda p: print(f"{p.done}/{p.total} {p.method} {p.note}", file=sys.stderr))
    rows = {spec: row(found) for spec, found in metrics["results"].items()}
    made, greedy = metrics["run"], metrics["results"][GREEDY]
    kept = ("model", "split", "limit", "batch_size", "seed", "weights")
    told = {
        "rule": RULE,
        "chosen": choose(rows),
        "settings": {key: made["settings"][key] for key in kept},
        "n": {"captions": greedy["chair"]["n"], "questions a split": greedy["pope"]["adversarial"]["n"]},
        "command": "python -m benchmarks.studies.lab2.tuning",
        **{key: made[key] for key in ("versions", "commit", "hardware")},
        "grid": rows,
    }
    RESULT.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told["chosen"], indent=1))


if __name__ == "__main__":
    main()
