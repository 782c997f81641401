"""The methods that everybody compares with, on the first lab: tuned, then shown beside greedy and a control.

    python -m benchmarks.studies.lab_peers tune                         # recipes/lab_peers_tuning.yaml, on seed 0
    python -m benchmarks.studies.lab_peers run seed0 seed1 seed2 clean  # recipes/lab_peers.yaml, and what was tuned
    python -m benchmarks.studies.lab_peers write                        # results/lab/peers.json and peers.md

Every registered method that is not in methods.md is in this table, with its numbers or the sentence that refuses it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.studies.lab_engine import ASKED, ask, opened
from benchmarks.studies.lab_page import page
from benchmarks.studies.lab_table import FIRST, RESULTS, compact, refusals
from benchmarks.studies.lab_tuning import chosen, tune
from grounddecode import registry
from grounddecode.engines.base import refusal_of
from grounddecode.evaluate.run.recipe import read
from grounddecode.lab import CHECKPOINTS
from grounddecode.registry import plan

RECIPES = Path(__file__).parents[1] / "recipes"
RECIPE, GRID = RECIPES / "lab_peers.yaml", RECIPES / "lab_peers_tuning.yaml"
FOLDER, TUNING = Path("out/lab_peers"), RESULTS[1] / "peers_tuning.json"
MODULE = "python -m benchmarks.studies.lab_peers"


def measure(name: str) -> None:
    """The run folder of one checkpoint, and beside its answers what was refused and what the guard asks."""
    model, out = f"lab:{name}", FOLDER / name
    engine = opened(model)
    wanted = dict.fromkeys((*read(RECIPE).methods, *chosen(TUNING).values()))
    plans = [spec for spec in wanted if not refusal_of(engine, plan(spec).methods)]
    said = refusals(engine, plans, (spec for spec in registry.names() if spec not in FIRST))
    ask(RECIPE, engine, model, plans, out, said)


def write() -> None:
    """Both files, from the checkpoints whose runs are through."""
    runs = {name: compact(FOLDER / name) for name in CHECKPOINTS if (FOLDER / name / ASKED).is_file()}
    if not runs:
        raise SystemExit(f"{FOLDER} holds no finished run: {MODULE} run {' '.join(CHECKPOINTS)}")
    table = {
        "command": f"{MODULE} run {' '.join(runs)}",
        "tuned": chosen(TUNING),
        "checkpoints": runs,
        "title": "the lab's models: what everybody compares with",
        "writer": f"{MODULE} write",
    }
    (RESULTS[1] / "peers.json").write_text(json.dumps(table, separators=(",", ":")) + "\n", encoding="utf-8")
    (RESULTS[1] / "peers.md").write_text(page(table), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "run", "write"))
    parser.add_argument("names", nargs="*", default=list(CHECKPOINTS), help="checkpoints of `run`")
    args = parser.parse_args()
    if args.what == "tune":
        tune(GRID, TUNING, f"{MODULE} tune", FOLDER / "tuning", opened(read(GRID).model))
    elif args.what == "write":
        write()
    else:
        for name in args.names:
            measure(name)


if __name__ == "__main__":
    main()
