"""Settings for the lab, chosen on calibration scenes of seed 0 from a stated grid by a stated rule.

    python -m benchmarks.studies.lab_tuning  # runs recipes/lab_tuning.yaml, writes results/lab/tuning.json

No scene of the evaluation split is seen here, and seeds 1, 2 and the clean twin get the same settings untouched.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grounddecode.engines.base import Engine
from grounddecode.evaluate.run.keeping import Progress
from grounddecode.evaluate.run.recipe import read
from grounddecode.evaluate.run.runner import run
from grounddecode.registry import GREEDY, plan

HERE = Path(__file__).parents[1]
RECIPE, RESULT = HERE / "recipes" / "lab_tuning.yaml", HERE / "results" / "lab" / "tuning.json"
RECALL_LOSS, ACCURACY_LOSS = 0.01, 0.005
RULE = (
    "of each method's settings in the grid the one with the lowest CHAIR_i whose object recall is at least greedy's "
    "minus 1 point and whose accuracy on POPE adversarial is at least greedy's minus 0.5 points; none where no setting "
    "meets both, or where the lowest CHAIR_i is not below greedy's"
)


def shown(progress: Progress) -> None:
    """How far a run of a study has come."""
    print(f"{progress.done}/{progress.total} {progress.method} {progress.note}", file=sys.stderr)


def row(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan's results say, as far as the rule and a reader need it; differences are from greedy."""
    chair, pope = found["chair"], found["pope"]["adversarial"]
    against = {
        "chair_i": chair.get("vs_greedy", {}).get("chair_i"),
        "accuracy": pope.get("vs_greedy", {}).get("accuracy"),
    }
    return {
        **{name: round(chair[name], 4) for name in ("chair_i", "chair_i_unique", "chair_s", "recall", "words")},
        "pope_adversarial": round(pope["accuracy"], 4),
        "yes_adversarial": round(pope["yes_ratio"], 4),
        **{f"{name}_difference": _rounded(found) for name, found in against.items() if found},
    }


def _rounded(found: Mapping[str, Any]) -> list[float]:
    """Difference, low, high."""
    return [round(value, 4) for value in (found["difference"], *found["ci"])]


def choose(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """The chosen plan of each method by the rule, from rows by plan; greedy must be among them."""
    greedy = rows[GREEDY]
    chosen: dict[str, str | None] = {}
    for spec, found in rows.items():
        if spec == GREEDY:
            continue
        (method,) = plan(spec).methods
        best = chosen.setdefault(method.name, None)
        keeps = (
            found["recall"] >= greedy["recall"] - RECALL_LOSS
            and found["pope_adversarial"] >= greedy["pope_adversarial"] - ACCURACY_LOSS
        )
        if keeps and found["chair_i"] < (rows[best] if best else greedy)["chair_i"]:
            chosen[method.name] = spec
    return chosen


def tune(recipe: Path, result: Path, command: str, folder: Path, opened: Engine | None = None) -> None:
    """Run a grid on calibration scenes, choose by the rule, keep the numbers.

    Raises:
        SystemExit: the recipe would look at another split.
    """
    if read(recipe).split != "calibration":
        raise SystemExit(f"{recipe.name} would tune on the split {read(recipe).split}: tune on calibration")
    metrics = run(recipe, folder, shown, opened=opened)
    rows = {spec: row(found) for spec, found in metrics["results"].items()}
    made, greedy = metrics["run"], metrics["results"][GREEDY]
    kept = ("model", "split", "limit", "batch_size", "seed", "weights")
    told = {
        "rule": RULE,
        "chosen": choose(rows),
        "settings": {key: made["settings"][key] for key in kept},
        "n": {"captions": greedy["chair"]["n"], "questions a split": greedy["pope"]["adversarial"]["n"]},
        "command": command,
        **{key: made[key] for key in ("versions", "commit", "hardware")},
        "grid": rows,
    }
    result.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told["chosen"], indent=1))


def chosen(result: Path) -> dict[str, str]:
    """The chosen plan of each method that has one, as committed."""
    found = json.loads(result.read_text(encoding="utf-8"))["chosen"]
    return {name: spec for name, spec in found.items() if spec}


def main(about: str | None, module: str, recipe: Path, result: Path, folder: str) -> None:
    """The command line of a module that tunes one recipe."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path(folder), help="run folder; the same one resumes")
    tune(recipe, result, f"python -m {module}", parser.parse_args().run)


if __name__ == "__main__":
    main(__doc__, "benchmarks.studies.lab_tuning", RECIPE, RESULT, "out/lab/tuning")
