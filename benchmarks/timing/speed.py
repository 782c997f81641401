"""Decode time, prefill time and peak memory of every method, as ratios to the plain model in the same run.

    python -m benchmarks.timing.speed --out benchmarks/results/speed.json

Two models: a random LLaVA (8 layers, hidden 512, 8 query and 4 key-value heads, vocabulary 32,000, 576 image tokens, a
prompt of 700) and the lab model. `saliency` is the streaming record of `grounddecode.saliency`; `2x` is the plain model
with twice the rows, which a second stream without any care of its own would cost. Plain and grounded `generate` calls
alternate; a step's time is the gap between two calls of a logits processor; the figure is the ratio of medians. A
method keeps its place on the model from call to call, as in a server: what `cicd` reads of its two reference pictures
is there from the second call on. Peak memory is the maximum resident size of a process of its own that runs one
configuration. Beside the JSON file stands a table of the ratios (`.md`); both are written after every turn. With
`--minutes` no turn begins that would end later.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing.subjects import EDIT_ALONE, MODELS, PLAIN, SALIENCY, TWICE, methods_of, placed

# What is freed goes back to the system at once (glibc), so that a peak is that of live memory and repeats itself.
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
EVERY = 4  # methods that a plain run stands before
SALIENCY_LAYERS = (2, 3, 4)  # target layers, as many as the bar of SGRS has


def generate(model, spec: str, inputs: dict, options: dict) -> None:
    """One `generate` under a specification, from attaching to leaving; the streaming saliency record is one too.

    `model`: may be what `placed` gives, which has the methods already.
    """
    from grounddecode import GroundedModel, ground
    from grounddecode.saliency import record_saliency

    if spec == SALIENCY:
        record_saliency(model, inputs, layers=SALIENCY_LAYERS, **options)
    elif spec in (PLAIN, TWICE) or isinstance(model, GroundedModel):
        model.generate(**inputs, **options)
    else:
        with ground(model, methods_of(spec, model)):
            model.generate(**inputs, **options)


def clocked_generate(model, spec: str, inputs: dict, tokens: int) -> tuple[float, list[float]]:
    """Seconds to the first token, and of every decode step."""
    import torch
    from transformers import LogitsProcessor

    class Clock(LogitsProcessor):
        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, input_ids, scores):
            if scores.is_cuda:
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())
            return scores

    clock = Clock()
    options = {"max_new_tokens": tokens, "do_sample": False, "logits_processor": [clock]}
    with torch.no_grad():
        begin = time.perf_counter()
        generate(model, spec, inputs, options)
    steps = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    return clock.times[0] - begin, steps


def measure(
    model_name: str,
    specs: list[str],
    batch: int,
    tokens: int,
    repeats: int,
    built: Any = None,
    warm: bool = True,
    until: float = math.inf,
    told: Callable[[list[dict]], None] | None = None,
) -> list[dict]:
    """One row a method: median seconds and ratios to plain, which runs before every few of the others.

    Args:
        built: the model and its maker of inputs.  warm: whether each runs once before.
        until: no turn but the first begins that would end later, by `time.monotonic`.
        told: is given the rows behind every turn.
    """
    model, make = built or MODELS[model_name]()
    inputs, doubled = make(batch), make(2 * batch)
    runs = {spec: placed(model, spec) for spec in [PLAIN, *specs]}
    steps: dict[str, list[float]] = {spec: [] for spec in [PLAIN, *specs]}
    first: dict[str, list[float]] = {spec: [] for spec in [PLAIN, *specs]}
    rows: list[dict] = []
    for turn in range(repeats):
        begin = time.monotonic()
        for number, spec in enumerate(specs):
            for one in (PLAIN, spec) if number % EVERY == 0 else (spec,):
                given = doubled if one == TWICE else inputs
                if warm and turn == 0:  # reads what later calls have in common, too
                    clocked_generate(runs[one], one, given, 2)
                prefill, decode = clocked_generate(runs[one], one, given, tokens)
                first[one].append(prefill)
                steps[one] += decode
        rows = [_row(model_name, batch, spec, steps, first) for spec in steps]
        if told is not None:
            told(rows)
        if 2 * time.monotonic() - begin > until:
            break
    return rows


def _row(model_name: str, batch: int, spec: str, steps: dict[str, list[float]], first: dict[str, list[float]]) -> dict:
    step, prefill = statistics.median(steps[spec]), statistics.median(first[spec])
    return {
        "model": model_name,
        "batch": batch,
        "method": spec,
        "decode_ms": 1000 * step,
        "decode_ratio": step / statistics.median(steps[PLAIN]),
        "prefill_ms": 1000 * prefill,
        "prefill_ratio": prefill / statistics.median(first[PLAIN]),
        "turns": len(first[spec]),
    }


def peak(model_name: str, spec: str, batch: int, tokens: int) -> dict:
    """Peak memory of one configuration in this process, MiB above what it held before the first `generate`."""
    model, make = MODELS[model_name]()
    inputs = make(batch)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    before = _status("VmRSS")
    clocked_generate(model, spec, inputs, tokens)
    top = _status("VmHWM")
    return {"peak_mib": top / 2**20, "growth_mib": (top - before) / 2**20}


def _status(field: str) -> int:
    """A memory figure of this process, bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def peaks(model_name: str, specs: list[str], batches: list[int], tokens: int) -> list[dict]:
    """Peak memory of every configuration, each in a fresh process, and the ratio of whole peaks to plain."""
    rows = []
    for batch in batches:
        plain = None
        for spec in [PLAIN, *specs]:
            asked = f"{model_name},{spec},{batch},{tokens}"
            command = [sys.executable, "-m", "benchmarks.timing.speed", "--peak", asked]
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | AT_ONCE).stdout
            )
            plain = plain or found
            ratio = found["peak_mib"] / plain["peak_mib"]
            rows.append({"model": model_name, "batch": batch, "method": spec, **found, "peak_ratio": ratio})
            line = f"{model_name:13} batch {batch} {spec:12} peak {ratio:5.2f}x (+{found['growth_mib']:.0f} MiB)"
            print(line, file=sys.stderr)
    return rows


def table(result: dict) -> str:
    """The ratios as Markdown."""
    peak = {(row["model"], row["batch"], row["method"]): row["peak_ratio"] for row in result["memory"]}
    memory = f", `{result['memory_command']}`" if "memory_command" in result else ""
    lines = [
        f"`{result['command']}`{memory}: {result['cores']} cores, {result['threads']} threads, "
        f"torch {result['torch']}, transformers {result['transformers']}. "
        "Ratios to plain greedy decoding in the same run.\n",
        "| model | batch | method | decode step | prefill |" + " peak memory |" * bool(peak),
        "|---|---|---|---|---|" + "---|" * bool(peak),
    ]
    for row in result["time"]:
        key = (row["model"], row["batch"], row["method"])
        held = f" {peak[key]:.2f}x |" if key in peak else " |" * bool(peak)
        plain = f" ({row['decode_ms']:.1f} ms)" if row["method"] == PLAIN else ""
        ratios = f"{row['decode_ratio']:.2f}x{plain} | {row['prefill_ratio']:.2f}x |{held}"
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {ratios}")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="random-8x512,lab")
    parser.add_argument("--methods", default=None, help="comma-separated: specifications, saliency, 2x; default: all")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5, help="generations of each; three times as many of one row")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for the times of all models and batches")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-alone", action="store_true", help="into the file of --out, whose times stay")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_alone and not (args.out and args.out.is_file()):
        parser.error(f"--memory-alone adds to a file with times, and --out is {args.out}: give one that is there")
    return args


def about() -> dict[str, Any]:
    import torch
    import transformers

    return {
        "command": " ".join(["python -m benchmarks.timing.speed", *sys.argv[1:]]),
        "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "time": [],
        "memory": [],
    }


def written(result: dict, out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(table(result))


def remember(out: Path, names: list[str], specs: list[str], batches: list[int]) -> None:
    """Measure memory alone, for the table whose times stand in `out`."""
    result = json.loads(out.read_text()) | {"memory": [], "memory_command": about()["command"]}
    for name in names:
        result["memory"] += peaks(name, specs, batches, 4)
        written(result, out)


def main() -> None:
    args = arguments()
    if args.peak:
        name, spec, batch, tokens = args.peak.split(",")
        print(json.dumps(peak(name, spec, int(batch), int(tokens))))
        return
    from grounddecode import registry

    specs = args.methods.split(",") if args.methods else [TWICE, *registry.names(), EDIT_ALONE, SALIENCY]
    batches = [int(b) for b in args.batches.split(",")]
    names = args.models.split(",")
    if args.memory_alone:
        remember(args.out, names, specs, batches)
        return
    result = about()
    rounds = [(name, batch) for name in names for batch in batches]
    end = time.monotonic() + 60 * args.minutes
    models = {name: MODELS[name]() for name in names}
    for number, (name, batch) in enumerate(rounds):
        until = time.monotonic() + (end - time.monotonic()) / (len(rounds) - number)
        repeats, known = args.repeats * (3 if batch == 1 else 1), result["time"]

        def told(rows: list[dict], known: list[dict] = known) -> None:
            result["time"] = known + rows
            written(result, args.out)

        rows = measure(name, specs, batch, args.tokens, repeats, models[name], batch == batches[0], until, told)
        print(table({**result, "time": rows}), file=sys.stderr, flush=True)
        if batch == batches[-1] and not args.no_memory:
            result["memory"] += peaks(name, specs, batches, 4)
    written(result, args.out)
    if args.out is None:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
