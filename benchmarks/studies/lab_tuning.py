"""Settings for the lab, chosen on calibration scenes of seed 0 from a stated grid by a stated rule.

    python -m benchmarks.studies.lab_tuning        # runs recipes/lab_tuning.yaml, writes results/lab/tuning.json
    python -m benchmarks.studies.lab_tuning peers  # recipes/lab_tuning_peers.yaml, results/lab/tuning_peers.json

No scene of the evaluation split is seen here, and seeds 1, 2 and the clean twin get the same settings untouched.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.lab_engine import opened
from grounddecode.evaluate.run.recipe import read
from grounddecode.evaluate.run.runner import run
from grounddecode.registry import GREEDY, plan

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "lab"
RESULT, PEERS = RESULTS / "tuning.json", RESULTS / "tuning_peers.json"
RECALL_LOSS, ACCURACY_LOSS = 0.01, 0.005
RULE = (
    "of each method's settings in the grid the one with the lowest CHAIR_i whose object recall is at least greedy's "
    "minus 1 point and whose accuracy on POPE adversarial is at least greedy's minus 0.5 points; none where no setting "
    "meets both, or where the lowest CHAIR_i is not below greedy's"
)


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


def recipe_of(result: Path) -> Path:
    """The recipe whose grid a result file holds."""
    return HERE / "recipes" / f"lab_{result.stem}.yaml"


def chosen() -> dict[str, str]:
    """The chosen plan of each method that has one, of both committed grids; the peers' file may not be there yet."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in (RESULT, PEERS) if path.is_file()]
    return {name: spec for found in files for name, spec in found["chosen"].items() if spec}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="?", choices=("first", "peers"), default="first", help="which methods' grid")
    parser.add_argument("--run", type=Path, help="run folder, by default out/lab/NAME; the same one resumes")
    args = parser.parse_args()
    result = RESULT if args.which == "first" else PEERS
    recipe = recipe_of(result)
    if read(recipe).split != "calibration":
        raise SystemExit(f"{recipe.name} would tune on the split {read(recipe).split}: tune on calibration")
    metrics = run(
        recipe,
        args.run or Path("out/lab") / result.stem,
        lambda p: print(f"{p.done}/{p.total} {p.method} {p.note}", file=sys.stderr),
        opened=opened(read(recipe).model),
    )
    told = report(metrics, f"python -m benchmarks.studies.lab_tuning {args.which}".removesuffix(" first"))
    result.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told["chosen"], indent=1))


def report(metrics: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The committed file: what was chosen, by which rule, from which numbers."""
    rows = {spec: row(found) for spec, found in metrics["results"].items()}
    made, greedy = metrics["run"], metrics["results"][GREEDY]
    kept = ("model", "split", "limit", "batch_size", "seed", "weights")
    return {
        "rule": RULE,
        "chosen": choose(rows),
        "settings": {key: made["settings"][key] for key in kept},
        "n": {"captions": greedy["chair"]["n"], "questions a split": greedy["pope"]["adversarial"]["n"]},
        "command": command,
        **{key: made[key] for key in ("versions", "commit", "hardware")},
        "grid": rows,
    }


if __name__ == "__main__":
    main()
