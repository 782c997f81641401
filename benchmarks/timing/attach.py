"""What it costs to attach methods to one `generate` call: a processor beside a block, and both beside a plain call.

    python -m benchmarks.timing.attach

The lab model answers one prompt with one token, so that next to nothing but attaching is timed; the forms alternate.
Milliseconds, medians of many calls.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.timing.subjects import lab_model, methods_of

CALLS = 100


def forms(model, spec: str) -> dict[str, Callable[[dict], object]]:
    """One call in each form; the processor of `made inside` is built in the call's own argument list."""
    from grounddecode import GroundedModel, ground
    from logits_processors.hf import MethodLogitsProcessor

    (method,) = methods_of(spec, model)
    kept, both = MethodLogitsProcessor(model, method), GroundedModel(model, method)

    def block(given: dict) -> object:
        with ground(model, method):
            return model.generate(**given)

    return {
        "plain": lambda given: model.generate(**given),
        "block": block,
        "processor": lambda given: model.generate(**given, logits_processor=[kept]),
        "made inside": lambda given: model.generate(**given, logits_processor=[MethodLogitsProcessor(model, method)]),
        "object": lambda given: both.generate(**given),
    }


def main(specs: list[str]) -> None:
    model, inputs = lab_model()
    given = inputs(1) | {"max_new_tokens": 1, "do_sample": False}
    for spec in specs:
        calls = forms(model, spec)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(CALLS):
            for name, call in calls.items():
                begin = time.perf_counter()
                call(given)
                times[name].append(1000 * (time.perf_counter() - begin))
        medians = {name: statistics.median(found) for name, found in times.items()}
        row = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
        print(f"{spec}: {row}; a processor costs {medians['processor'] - medians['block']:+.2f} ms more than a block")


if __name__ == "__main__":
    main(sys.argv[1:] or ["locore", "avc", "heads"])
