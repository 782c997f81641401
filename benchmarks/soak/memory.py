"""Resident memory over many samples of a bench, and over many calls with methods switched at random, on the lab.

    python -m benchmarks.soak.memory --samples 2000 --calls 1000 --out benchmarks/results/soak_memory.json

The size is what /proc says of this process (Linux), read ten times. `growth_mib` is from the second reading to the
last: what is loaded and cached once falls into what is before.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from grounddecode import registry
from grounddecode.engines.base import Decoding, Engine, Request, open_engine, refusal_of
from grounddecode.evaluate.json_lines import write_json
from grounddecode.evaluate.run.keeping import Progress
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.evaluate.run.runner import Recipe, bench
from grounddecode.evaluate.sample import open_picture

READINGS = 10
FIRST_SCENE = 2_000_000_000


def resident() -> float:
    """MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def summary(readings: list[float], count: int) -> dict[str, Any]:
    return {"count": count, "resident_mib": [round(one, 1) for one in readings],
            "growth_mib": round(readings[-1] - readings[1], 1)}  # fmt: skip


def over_samples(engine: Engine, count: int) -> dict[str, Any]:
    """A bench of so many samples."""
    readings: list[float] = []

    def look(progress: Progress) -> None:
        if progress.done * READINGS >= (len(readings) + 1) * progress.total:
            readings.append(resident())
            sys.stderr.write(f"{progress.done} samples: {readings[-1]:.1f} MiB\n")

    each = -(-count // 4)  # of CHAIR, and of each of POPE's splits
    recipe = Recipe(model="lab", limit=each, batch_size=16, max_new_tokens=12, resamples=50)
    with tempfile.TemporaryDirectory() as out:
        done = bench(recipe, out, opened=engine, progress=look)["run"]["n_answers"]
    return summary(readings, done)


def plans(engine: Engine) -> list[registry.Plan]:
    """Greedy, sampling, beams, every method that the model takes, and some pairs."""
    named = ["greedy", "sample", "beam:n=2", *registry.names(), "locore+avc", "sample+locore"]
    found = registry.plans([name for name in named if not unconfigured(name)])
    return [plan for plan in found if refusal_of(engine, plan.methods) is None]


def unconfigured(name: str) -> bool:
    """Whether a method cannot be made from its name alone."""
    try:
        registry.plan(name)
    except ValueError:
        return True
    return False


def over_calls(engine: Engine, count: int) -> dict[str, Any]:
    """So many calls of `generate`, each with methods, rows and a length drawn anew."""
    rng, readings, chosen = random.Random(0), [], plans(engine)
    pictures = [open_picture(f"lab:{FIRST_SCENE + at}") for at in range(8)]
    for at in range(count):
        plan = rng.choice(chosen)
        asked = [
            Request(sample_id=str(row), prompt="Describe this image in detail.", images=(rng.choice(pictures),))
            for row in range(rng.randint(1, 3))
        ]
        decoding = Decoding(max_new_tokens=rng.randint(1, 6), seed=at, **plan.decoding)
        engine.generate(asked, decoding, plan.methods)
        if (at + 1) * READINGS >= (len(readings) + 1) * count:
            readings.append(resident())
            sys.stderr.write(f"{at + 1} calls: {readings[-1]:.1f} MiB\n")
    return {**summary(readings, count), "plans": [plan.name for plan in chosen]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--most", type=float, default=32.0, help="MiB that either may grow by")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    engine = open_engine("hf", "lab", device="cpu")
    result = {"samples": over_samples(engine, args.samples), "calls": over_calls(engine, args.calls), **provenance()}
    write_json(args.out or "/dev/stdout", result)
    if max(result["samples"]["growth_mib"], result["calls"]["growth_mib"]) > args.most:
        raise SystemExit("memory grows")


if __name__ == "__main__":
    main()
