"""Decode, prefill and memory of every method at the shapes of real checkpoints, beside the bars."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.timing.speed import PLAIN, clocked_generate, generate

BARS = {"attention": 1.05, "contrast": 1.15, "sgrs": 1.8}  # decode, one row, at the 7B shapes
BAR_OF = {"avc": "contrast", "vcd": "contrast", "sgrs": "sgrs"} | dict.fromkeys(
    ("locore", "var", "heads", "paint", "spin", "vaf"), "attention"
)


def measured(name: str, built: Any, specs: list[str], batches: list[int], tokens: int, repeats: int, until: float):
    """One line a (method, batch): plain and grounded calls alternate; medians, and their ratio to plain.

    What `until` (a time of `time.monotonic`) leaves no time for gets a line that says so.
    """
    model, make = built
    for batch in batches:
        inputs = make(batch)
        _clocked(model, PLAIN, inputs, 4)
        for spec in specs:
            line = {"model": name, "batch": batch, "method": spec}
            if time.monotonic() > until:
                yield line | {"skipped": "the time was up"}
                continue
            try:
                yield line | _compared(model, spec, inputs, tokens, repeats) | _bar(spec)
            except Exception as error:  # a refusal, or a kernel that does not compile: the others go on
                yield line | {"refused": f"{type(error).__name__}: {error}"[:300]}


def _compared(model: Any, spec: str, inputs: dict, tokens: int, repeats: int) -> dict[str, Any]:
    """Ratios to the plain call beside it, the median of many short pairs: the clocks of card and host drift."""
    _clocked(model, spec, inputs, 7)  # past the step with which graphs begin
    pairs = [(_clocked(model, PLAIN, inputs, tokens), _clocked(model, spec, inputs, tokens)) for _ in range(repeats)]
    steps = [(statistics.median(plain[1]), statistics.median(ours[1])) for plain, ours in pairs]
    tops = [max(call[2] for call in calls) for calls in zip(*pairs, strict=True)]
    return {
        "decode_ms": 1000 * statistics.median(ours for _, ours in steps),
        "plain_decode_ms": 1000 * statistics.median(plain for plain, _ in steps),
        "decode_ratio": statistics.median(ours / plain for plain, ours in steps),
        "prefill_ms": 1000 * statistics.median(ours[0] for _, ours in pairs),
        "prefill_ratio": statistics.median(ours[0] / plain[0] for plain, ours in pairs),
        "peak_gib": tops[1] / 2**30,
        "peak_ratio": tops[1] / max(tops[0], 1),
    }


def _clocked(model: Any, spec: str, inputs: dict, tokens: int) -> tuple[float, list[float], int]:
    """Seconds to the first token, of each further step, and the peak of the device's memory in bytes."""
    on_card = model.device.type == "cuda"
    if on_card:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    prefill, steps = clocked_generate(model, spec, inputs, tokens)
    return prefill, steps, torch.cuda.max_memory_allocated() if on_card else 0


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
