"""A bench killed with SIGKILL again and again, at any moment: what is lost, what is there twice, what it ends with.

    python -m benchmarks.soak.kills --times 50 --out benchmarks/results/soak_kills.json

One process opens the lab's model; each start of the bench is a child of it, killed a random while (up to `--while`
seconds) after it has answered something. Children share the model's memory and nothing else, so that a start costs no
import. At the end the command runs through, and an uninterrupted run is what it is compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from grounddecode.engines.base import Engine, open_engine
from grounddecode.evaluate.json_lines import write_json
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.evaluate.run.runner import Recipe, bench


def start(recipe: Recipe, out: Path, engine: Engine) -> int:
    """A child that runs the bench to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            bench(recipe, out, opened=engine)
            code = 0
        finally:
            os._exit(code)
    return child


def content(out: Path) -> bytes:
    try:
        return (out / "samples.jsonl").read_bytes()
    except FileNotFoundError:
        return b""


def ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG) != (0, 0)


def answers(data: bytes) -> dict[tuple[str, str], str]:
    lines = [json.loads(line) for line in data.splitlines()]
    return {(line["method"], line["sample_id"]): line["response"] for line in lines}


def kill(recipe: Recipe, out: Path, engine: Engine, rng: random.Random, longest: float) -> dict[str, int] | None:
    """One start and its end: lines it added, whether the last is torn, whether any that was there is gone.

    None where the run was through before.
    """
    before = content(out)
    whole = before[: before.rfind(b"\n") + 1]
    child = start(recipe, out, engine)
    while content(out).count(b"\n") <= whole.count(b"\n"):
        if ended(child):
            return None
        time.sleep(0.01)
    time.sleep(rng.uniform(0, longest))
    if ended(child):
        return None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    after = content(out)
    return {
        "added": after.count(b"\n") - whole.count(b"\n"),
        "torn": int(not after.endswith(b"\n")),
        "lost": int(not after.startswith(whole)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--while", type=float, default=0.5, dest="longest")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--methods", default="greedy,locore,avc")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recipe = Recipe(model="lab", methods=args.methods, limit=args.limit, batch_size=4, max_new_tokens=12, resamples=50)
    engine, rng, told = open_engine("hf", "lab", device="cpu"), random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        wanted, truth = numbers(bench(recipe, undisturbed, opened=engine)), answers(content(undisturbed))
        runs = [Path(folder) / "0"]
        while len(told) < args.times:
            found = kill(recipe, runs[-1], engine, rng, args.longest)
            if found is None:
                runs.append(Path(folder) / f"{len(runs)}")  # it was through: another one
                continue
            told.append(found)
            sys.stderr.write(f"{len(told)}: {found}\n")
        ends = [(numbers(bench(recipe, out, opened=engine)), content(out)) for out in runs]
    result: dict[str, Any] = {
        "kills": args.times,
        "runs": len(runs),
        "answers_a_run": len(truth),
        "torn_lines": sum(one["torn"] for one in told),
        "starts_that_lost_lines": sum(one["lost"] for one in told),
        "answers_twice": sum(lines.count(b"\n") - len(answers(lines)) for _, lines in ends),
        "same_answers_as_undisturbed": all(answers(lines) == truth for _, lines in ends),
        "same_results_as_undisturbed": all(found == wanted for found, _ in ends),
        **provenance(),
    }
    write_json(args.out or "/dev/stdout", result)
    if result["starts_that_lost_lines"] or result["answers_twice"] or not result["same_answers_as_undisturbed"]:
        raise SystemExit("answers were lost, or are there twice")


def numbers(metrics: dict[str, Any]) -> Any:
    """The results without what depends on the clock."""
    return timeless(metrics["results"])


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key != "cost"}
    return value


if __name__ == "__main__":
    main()
