"""Decode, prefill and memory of every method at the shapes of real checkpoints, beside the bars."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.timing.lockstep import Generate, Lockstep, twin
from benchmarks.timing.paired import interval
from benchmarks.timing.speed import PLAIN, generate
from benchmarks.timing.subjects import placed

BARS = {"attention": 1.05, "contrast": 1.15, "sgrs": 1.8}  # decode, one row, at the 7B shapes
BAR_OF = {"avc": "contrast", "vcd": "contrast", "sgrs": "sgrs"} | dict.fromkeys(
    ("locore", "var", "heads", "paint", "spin", "vaf"), "attention"
)


def measured(name: str, built: Any, specs: list[str], batch: int, tokens: int, runs: int, until: float):
    """One line a method: plain and grounded decoding take turns; medians, and their ratio to plain.

    What `until` (a time of `time.monotonic`) leaves no time for gets a line that says so; methods share the time, and
    as many runs are made, at most, as it allows.
    """
    model, make = built
    plain, inputs = twin(model), make(batch)
    for number, spec in enumerate(specs):
        line, begin = {"model": name, "batch": batch, "method": spec}, time.monotonic()
        if begin > until:
            yield line | {"skipped": "the time was up"}
            continue
        stop = begin + (until - begin) / (len(specs) - number)
        try:
            yield line | _compared(plain, model, spec, inputs, tokens, runs, stop) | _bar(spec)
        except Exception as error:  # a refusal, or a kernel that does not compile: the others go on
            yield line | {"refused": f"{type(error).__name__}: {error}"[:300]}


def _compared(plain: Any, model: Any, spec: str, inputs: dict, tokens: int, runs: int, stop: float) -> dict[str, Any]:
    """Ratios of steps to those of the plain model in turn with them, and of the peaks of memory.

    A method keeps its place from call to call, as in a server. One call of each warms up: what is compiled, and what
    libraries plan for a number of keys.
    """
    sides, on_card = ((plain, PLAIN), (placed(model, spec), spec)), inputs["input_ids"].is_cuda
    options = {"max_new_tokens": tokens, "do_sample": False}

    def side(number: int, length: int = tokens) -> Generate:
        held, asked = sides[number], options | {"max_new_tokens": length}
        return lambda last: generate(*held, inputs, asked | {"logits_processor": last})

    peaks = [_peak(side(number, 7), on_card) for number in range(2)]  # past the step with which graphs begin
    lockstep = Lockstep(side(0), side(1), on_card)
    try:
        lockstep.run()
        pairs = []
        for turn in range(runs):
            begin = time.monotonic()
            pairs.append(lockstep.run(turn % 2))
            if turn and 2 * time.monotonic() - begin > stop:
                break
    finally:
        lockstep.close()
    return _figures(pairs) | {"peak_gib": peaks[1] / 2**30, "peak_ratio": peaks[1] / max(peaks[0], 1)}


def _figures(pairs: list[tuple[list[float], list[float]]]) -> dict[str, Any]:
    """`decode_ratio`: the median over steps beside each other; `decode_whole`: of all their time together."""
    steps = [step for plain, ours in pairs for step in zip(plain[1:], ours[1:], strict=True)]
    ratios = [ours / plain for plain, ours in steps]
    return {
        "decode_ms": 1000 * statistics.median(ours for _, ours in steps),
        "plain_decode_ms": 1000 * statistics.median(plain for plain, _ in steps),
        "decode_ratio": statistics.median(ratios),
        "decode_interval": interval(ratios),
        "decode_whole": sum(ours for _, ours in steps) / sum(plain for plain, _ in steps),
        "prefill_ms": 1000 * statistics.median(ours[0] for _, ours in pairs),
        "prefill_ratio": statistics.median(ours[0] / plain[0] for plain, ours in pairs),
        "runs": len(pairs),
    }


def _peak(one: Generate, on_card: bool) -> int:
    """The peak of the device's memory in one generation alone, in bytes."""
    if on_card:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        one([])
    return torch.cuda.max_memory_allocated() if on_card else 0


def _bar(spec: str) -> dict[str, float]:
    kind = BAR_OF.get(spec.partition(":")[0])
    return {} if kind is None else {"bar": BARS[kind]}


def compiled(name: str, built: Any, specs: list[str], tokens: int, until: float) -> Iterator[dict[str, Any]]:
    """Static caches, which transformers compiles by itself on a card, beside the same call uncompiled.

    Methods run uncompiled and say so; their line is the price of that.
    """
    model, make = built
    inputs = make(1)
    for spec in [PLAIN, *specs]:
        for cache in ("dynamic", "static"):
            line = {"model": name, "method": spec, "cache": cache}
            if time.monotonic() > until:
                yield line | {"skipped": "the time was up"}
                continue
            try:
                options = {} if cache == "dynamic" else {"cache_implementation": "static"}
                yield line | {"ms_per_token": _per_token(model, spec, inputs, tokens, options)}
            except Exception as error:  # a line of its own: the others go on
                yield line | {"error": f"{type(error).__name__}: {error}"[:300]}


def _per_token(model: Any, spec: str, inputs: dict, tokens: int, options: dict) -> float:
    """Median milliseconds of a decode step over warm calls."""

    def seconds(count: int) -> float:
        begin = time.perf_counter()
        with torch.no_grad():
            generate(model, spec, inputs, {"max_new_tokens": count, "do_sample": False} | options)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    seconds(tokens), seconds(2)
    return 1000 * statistics.median((seconds(tokens) - seconds(2)) / (tokens - 2) for _ in range(3))
