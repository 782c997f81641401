"""What the runner costs beside a bare loop of `generate` over the same samples in the same batches, on the lab.

    python -m benchmarks.timing.runner_overhead --out benchmarks/results/runner_overhead.json

The bare loop holds its pictures in memory and throws its answers away. The runner opens pictures, writes every batch
with fsync, and tells how far it is. `whole` is all that `bench` does once a model is loaded: samples, answers, scores,
intervals. They take turns, `--repeats` times, each turn in another order; `ratio` is that of the quickest turns, which
other work on the machine disturbs least, medians stand beside it. `own_share` measures the same without that noise:
what the runner takes with an engine that answers at once, over the time of the bare loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from grounddecode.engines.base import Decoding, Engine, Request, Response, open_engine
from grounddecode.evaluate.benchmarks.base import Wanted
from grounddecode.evaluate.benchmarks.table import load
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.run.asking import Asker
from grounddecode.evaluate.run.batches import batches, units
from grounddecode.evaluate.run.keeping import Keeping
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.evaluate.run.runner import Recipe, bench
from grounddecode.evaluate.sample import Sample, open_picture
from grounddecode.registry import plans


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


class Parrot:
    """Gives the answers of an engine again, at once."""

    name = "hf"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.said: dict[str, Response] = {}

    def describe(self) -> dict[str, object]:
        return self.engine.describe()

    def generate(self, requests, decoding, methods=()):
        asked = [request for request in requests if request.sample_id not in self.said]
        if asked:
            self.said |= {response.sample_id: response for response in self.engine.generate(asked, decoding, methods)}
        return [self.said[request.sample_id] for request in requests]

    def close(self) -> None:
        self.engine.close()


def request(sample: Sample) -> Request:
    """A request with its picture in memory."""
    return Request(sample_id=sample.sample_id, prompt=sample.prompt, images=(open_picture(sample.image),))


def in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """The times of every way, which take turns in another order each time."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(repeats):
        order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in order:
            times[name].append(timed(ways[name]))
            print(f"{name:7} {times[name][-1][0]:7.2f} s, {times[name][-1][1]:7.2f} s of processor", file=sys.stderr)
    return times


def shares(
    times: dict[str, list[tuple[float, float]]],
    alone: dict[str, list[tuple[float, float]]],
    of: Callable[[Iterable[float]], float],
) -> dict[str, dict[str, float]]:
    """One figure of all turns (`of`) for every way, and what the runner adds to the bare loop."""
    found = {name: [of(column) for column in zip(*turns, strict=True)] for name, turns in times.items()}
    return {
        "seconds": {name: seconds for name, (seconds, _) in found.items()},
        "processor_seconds": {name: processor for name, (_, processor) in found.items()},
        "own_share": {name: of(turn[0] for turn in turns) / found["bare"][0] for name, turns in alone.items()},
        "ratio": {name: found[name][0] / found["bare"][0] for name in alone},
        "processor_ratio": {name: found[name][1] / found["bare"][1] for name in alone},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lab")
    parser.add_argument("--benchmarks", default="chair,pope")
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names = args.benchmarks.split(",")
    engine = open_engine("hf", args.model)
    todo = units(load(names, Wanted(limit=args.limit)))
    groups = batches(todo, args.batch_size)
    requests = [[request(unit.first) for unit in group] for group in groups]

    def bare() -> None:
        for group, asked in zip(groups, requests, strict=True):
            engine.generate(asked, Decoding(max_new_tokens=group[0].first.max_new_tokens))

    def runner(engine: Engine = engine) -> None:
        with tempfile.TemporaryDirectory() as out, RunFolder(out) as folder:
            keeping = Keeping(folder, plans(["greedy"]), lambda progress: None)
            keeping.answer(groups, Asker(engine, batch_size=args.batch_size))

    def whole(engine: Engine = engine) -> None:
        with tempfile.TemporaryDirectory() as out:
            recipe = Recipe(model=args.model, benchmarks=tuple(names), limit=args.limit, batch_size=args.batch_size)
            bench(recipe, out, opened=engine)

    parrot = Parrot(engine)
    ways = {"bare": bare, "runner": runner, "whole": whole}
    idle = {"runner": lambda: runner(parrot), "whole": lambda: whole(parrot)}
    for work in idle.values():
        work()  # warms up, and fills the parrot
    times = in_turns(ways, args.repeats)
    alone = {name: [timed(work) for _ in range(args.repeats)] for name, work in idle.items()}
    result = {**provenance(), "samples": len(todo), "batches": len(groups), "repeats": args.repeats}
    result |= {"least": shares(times, alone, min), "median": shares(times, alone, statistics.median)}
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
