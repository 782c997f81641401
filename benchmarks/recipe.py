"""Run a recipe, and keep its metrics with their provenance.

    python -m benchmarks.recipe benchmarks/recipes/lab.yaml --out out/lab --keep benchmarks/results/lab.json
    python -m benchmarks.recipe benchmarks/recipes/llava15_coco.yaml --out out/llava.1 --shard 1/8 --device cuda:0

The same command resumes. Shards are put together with `grounddecode merge`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grounddecode.evaluate.results.compare import tables_of
from grounddecode.evaluate.run.recipe import read
from grounddecode.evaluate.run.runner import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="write the metrics here too")
    parser.add_argument("--data", help="instead of the recipe's folder")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shard")
    parser.add_argument("--device")
    args = parser.parse_args()
    changes = {key: value for key in ("data", "limit", "shard") if (value := getattr(args, key)) is not None}
    if args.device:
        changes["engine_options"] = {**read(args.recipe).engine_options, "device": args.device}
    metrics = run(
        args.recipe, args.out, lambda p: print(f"{p.done}/{p.total} {p.method} {p.note}", file=sys.stderr), **changes
    )
    print(tables_of(metrics).text())
    if args.keep:
        args.keep.parent.mkdir(parents=True, exist_ok=True)
        args.keep.write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
