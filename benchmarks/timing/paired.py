"""Decode time of two commits, as ratios new to old: both run beside each other, and take turns.

    python -m benchmarks.timing.paired --old 948aaac --out benchmarks/results/paired.json

The old commit is checked out into a folder of its own (`git worktree`), and a process of each tree, of the same
interpreter, builds the same random model and then waits for what it is told to run. Of each method they run one
`generate` after the other, now one first and now the other; a turn gives the ratio of the medians of their decode
steps, and told are the median over turns and a 95 % interval by bootstrap. `greedy` runs no line of ours while it
decodes: its ratio says how still the machine was. The interpreter must have a transformers that both know
(`--python`; 948aaac knows up to 5.23).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SPECS = "greedy,locore,avc,sgrs,var,paint,heads,saliency"
HEADINGS = "| model | batch | method | new / old | interval | old | new |\n|---|---|---|---|---|---|---|"


def child() -> None:
    """Build the model, then answer each line [batch, method, tokens] with [seconds to the first token, of a step]."""
    sys.path.insert(0, str(ROOT))
    import torch

    from benchmarks.timing.speed import clocked_generate  # of this tree; what it measures is of the tree on the path
    from benchmarks.timing.subjects import random_model

    sys.path.remove(str(ROOT))
    import grounddecode

    torch.set_num_threads(1)
    model, make = random_model()
    kept: dict[int, Any] = {}
    print(json.dumps(str(Path(grounddecode.__file__).parents[1])), flush=True)
    for line in sys.stdin:
        batch, spec, tokens = json.loads(line)
        if batch not in kept:
            torch.manual_seed(batch)
            kept[batch] = make(batch)
        first, steps = clocked_generate(model, spec, kept[batch], tokens)
        print(json.dumps([first, statistics.median(steps)]), flush=True)


class Tree:
    """A process that runs the package of one tree."""

    def __init__(self, python: str, folder: Path) -> None:
        settings = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [python, str(Path(__file__).resolve()), "--child"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=settings, cwd=folder, **pipes)
        found = self._read()
        if Path(found).resolve() != folder.resolve():
            raise SystemExit(f"the process for {folder} imports grounddecode from {found}")

    def run(self, *asked: Any) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return list(self._read())

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with that commit, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "old"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(folder), commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the medians of resamples."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[1949]


def measure(old: Tree, new: Tree, batch: int, spec: str, tokens: int, turns: int) -> dict[str, Any]:
    """One row: the ratio of the two trees in one method."""
    times: dict[str, list[float]] = {"old": [], "new": []}
    for turn in range(turns + 1):
        order = [("old", old), ("new", new)]
        took = {name: tree.run(batch, spec, tokens)[1] for name, tree in (order if turn % 2 else order[::-1])}
        if turn:  # the first warms up
            for name, seconds in took.items():
                times[name].append(seconds)
    ratios = [new / old for old, new in zip(times["old"], times["new"], strict=True)]
    low, high = interval(ratios)
    ms = {f"{name}_ms": 1e3 * statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(ratios)
    found = {"batch": batch, "method": spec, "ratio": ratio, "low": low, "high": high, "turns": turns, **ms}
    print(found, file=sys.stderr, flush=True)
    return found


def table(rows: list[dict[str, Any]], about: str) -> str:
    lines = [about, "", HEADINGS]
    for row in rows:
        times = f"{row['old_ms']:.1f} ms | {row['new_ms']:.1f} ms"
        between = f"[{row['low']:.2f}, {row['high']:.2f}]"
        lines.append(f"| random-8x512 | {row['batch']} | {row['method']} | {row['ratio']:.2f} | {between} | {times} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", default="948aaac", help="commit to compare with")
    parser.add_argument("--python", default=sys.executable, help="interpreter of both")
    parser.add_argument("--methods", default=SPECS)
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child()
        return
    new_commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    with checked_out(args.old) as folder:
        old, new = Tree(args.python, folder), Tree(args.python, ROOT)
        rows = [
            measure(old, new, int(batch), spec, args.tokens, args.turns)
            for batch in args.batches.split(",")
            for spec in args.methods.split(",")
        ]
        old.close()
        new.close()
    about = (
        f"`python -m benchmarks.timing.paired --old {args.old}`: decode steps of {new_commit.stdout.strip()} as ratios "
        f"to those of {args.old}, {args.turns} turns of {args.tokens} tokens each, one thread."
    )
    if args.out is None:
        print(table(rows, about))
        return
    args.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(table(rows, about), encoding="utf-8")


if __name__ == "__main__":
    main()
