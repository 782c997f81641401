"""Contrasts with other pictures on the lab: a small table beside the large one, with controls and intervals.

python -m benchmarks.studies.lab_contrasts run seed0 seed1 seed2 clean  # recipes/lab_contrasts.yaml
python -m benchmarks.studies.lab_contrasts write                        # results/lab/contrasts.json, contrasts.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.studies.lab_engine import REFUSED
from benchmarks.studies.lab_page import page
from benchmarks.studies.lab_table import RESULTS, compact
from benchmarks.studies.lab_tuning import shown
from grounddecode.evaluate.run.runner import run
from grounddecode.lab import CHECKPOINTS

RECIPE = Path(__file__).parents[1] / "recipes" / "lab_contrasts.yaml"
FOLDER = Path("out/lab_contrasts")
MODULE = "python -m benchmarks.studies.lab_contrasts"


def measure(name: str) -> None:
    """The run folder of one checkpoint; nothing is refused there."""
    out = FOLDER / name
    run(RECIPE, out, shown, model=f"lab:{name}")
    (out / REFUSED).write_text("{}\n", encoding="utf-8")


def write() -> None:
    runs = {name: compact(FOLDER / name) for name in CHECKPOINTS if (FOLDER / name / REFUSED).is_file()}
    if not runs:
        raise SystemExit(f"{FOLDER} holds no finished run: {MODULE} run {' '.join(CHECKPOINTS)}")
    table = {
        "command": f"{MODULE} run {' '.join(runs)}",
        "tuned": {},
        "checkpoints": runs,
        "title": "the lab's models: contrasts with other pictures",
        "writer": f"{MODULE} write",
    }
    folder = RESULTS[1]
    (folder / "contrasts.json").write_text(json.dumps(table, separators=(",", ":")) + "\n", encoding="utf-8")
    (folder / "contrasts.md").write_text(page(table), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("names", nargs="*", default=list(CHECKPOINTS), help="checkpoints of `run`")
    args = parser.parse_args()
    if args.what == "write":
        write()
    for name in args.names if args.what == "run" else ():
        measure(name)


if __name__ == "__main__":
    main()
