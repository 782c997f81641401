"""What the host does in a decode step on a card, timed without one: where launches cost nothing, what is left?

    python -m benchmarks.timing.host --out benchmarks/results/host.json

A step of one row on a fast card waits for the host: Python, torch's dispatch and launches. This times all of that but
the launches themselves. The depth and prompt of LLaVA-1.5-7B at a tiny width, bfloat16, on one thread; kernels of our
own and graphs do nothing but fill what they return, and plain attention of one query does the same, so that neither
side computes what a card would. A launch of a kernel by Triton and one by torch are taken to cost the same. **The
ratio is an estimate of a card's, not a measurement of one**: what a method computes in operations of torch counts on
the CPU at the CPU's price, and what a graph holds at none, also where the card is then what a step waits for, as for
the gradients of `sgrs`: they follow the last layer and read the weights of all layers above the targets once more.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.machinery
import itertools
import json
import statistics
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.gpu.shapes import llava
from benchmarks.timing.launches import SHAPE
from benchmarks.timing.speed import PLAIN, clocked_generate

METHODS = ("locore", "vaf", "paint", "heads", "spin", "var", "avc", "vcd", "sgrs")
FIRST = 8  # the steps before are those with which graphs begin
FILLED = {"_sloped_attention": 3, "_merge": 0}  # which argument of a kernel its first result is


class Compiled:
    """A kernel of Triton that fills its first result with zeros."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.__name__ = function.__name__
        self._filled = FILLED.get(function.__name__)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., types.SimpleNamespace]:
        return self._made

    def _made(self, *arguments: Any, num_warps: int) -> types.SimpleNamespace:
        """What launches, given addresses of tensors like these behind nine others."""
        run, filled = _nothing, self._filled
        if filled is not None:
            size, zeros, place = arguments[filled].zero_().nbytes, ctypes.memset, 9 + filled

            def run(*given: Any) -> None:
                zeros(given[place], 0, size)

        return types.SimpleNamespace(run=run, function=None, packed_metadata=None)


def _nothing(*_: Any) -> None:
    """In place of a launch."""


class Recorded:
    """A graph that returns what it gave when it was recorded."""

    def __init__(self, function: Callable[..., Tensor], inputs: Any) -> None:
        self.inputs, self.output = tuple(inputs), function(*inputs)

    def __call__(self) -> Tensor:
        return self.output


def _triton() -> dict[str, types.ModuleType]:
    language = types.ModuleType("triton.language")
    vars(language).update(tensor=object, constexpr=object)
    triton = types.ModuleType("triton")
    triton.__spec__ = importlib.machinery.ModuleSpec("triton", None)
    vars(triton).update(
        language=language,
        jit=lambda function=None, **_: Compiled if function is None else Compiled(function),
        next_power_of_2=lambda n: 1 << (n - 1).bit_length(),
    )
    runtime = types.ModuleType("triton.runtime")
    active = types.SimpleNamespace(get_current_stream=int)
    vars(runtime).update(driver=types.SimpleNamespace(active=active))
    return {"triton": triton, "triton.language": language, "triton.runtime": runtime}


def _there(tensor: Tensor) -> bool:
    """In place of the question whether it lies on a card."""
    return True


@contextmanager
def as_on_a_card() -> Iterator[None]:
    """Methods go the ways of a card, whose kernels and graphs cost nothing; plain attention of one query neither."""
    from grounddecode.engines.hf.attention import card
    from grounddecode.engines.hf.saliency import graphed
    from grounddecode.engines.hf.watch import flags

    real = nn.functional.scaled_dot_product_attention

    def attention(query: Tensor, *args: Any, **options: Any) -> Tensor:
        return torch.empty_like(query).zero_() if query.shape[2] == 1 else real(query, *args, **options)

    if "grounddecode.engines.grouped.launch" in sys.modules:
        raise RuntimeError("kernels were imported before, start a process of its own")
    with (
        mock.patch.dict(sys.modules, _triton()),
        mock.patch.object(nn.functional, "scaled_dot_product_attention", attention),
        mock.patch.object(card, "on_card", _there),
        mock.patch.object(flags, "on_card", _there),
        mock.patch.object(card, "Replay", Recorded),
        mock.patch.object(graphed, "can_record", _there),
        mock.patch.object(graphed, "Replay", Recorded),
        mock.patch.object(graphed, "TRIALS", 1),  # a second replay gives what the first gave
    ):
        from grounddecode.engines.grouped import merging

        with mock.patch.object(merging, "_says_as", return_value=True):
            yield


def calls(model: Any, spec: str, inputs: dict[str, Any], steps: int) -> float:
    """Calls of functions, Python's and C's, in a decode step: what does not depend on the machine."""

    def counted(tokens: int) -> int:
        seen = itertools.count()

        def note(_: Any, event: str, __: Any) -> None:
            if event.endswith("call"):
                next(seen)

        sys.setprofile(note)
        try:
            clocked_generate(model, spec, inputs, tokens)
        finally:
            sys.setprofile(None)
        return next(seen)

    return (counted(FIRST + steps) - counted(FIRST)) / steps


def measured(specs: list[str], steps: int, repeats: int) -> Iterator[dict[str, Any]]:
    """One row a method: its step beside that of the plain model, the fastest call of many that alternate.

    A call is its median step. Other work on a machine only ever adds to a step, so the least of each is compared.
    """
    torch.manual_seed(0)
    model, make = llava(SHAPE, "cpu", torch.bfloat16)
    inputs = make(1)

    def step(spec: str) -> float:
        return statistics.median(clocked_generate(model, spec, inputs, FIRST + steps)[1][FIRST:])

    step(PLAIN)  # transformers is imported by now, and asks in its own way for Triton
    with as_on_a_card():
        step(PLAIN)
        plain = calls(model, PLAIN, inputs, steps)
        for spec in specs:
            step(spec)
            more = calls(model, spec, inputs, steps) - plain
            pairs = [(step(PLAIN), step(spec)) for _ in range(repeats)]
            base, ours = (min(times) for times in zip(*pairs, strict=True))
            yield {
                "method": spec,
                "ratio": ours / base,
                "added_us": 1e6 * (ours - base),
                "added_calls": more,
                "plain_us": 1e6 * base,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--steps", type=int, default=24, help="decode steps of a call")
    parser.add_argument("--repeats", type=int, default=10, help="pairs of calls")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in measured(args.methods.split(","), args.steps, args.repeats):
        added = f"{row['added_us']:+8.0f} us {row['added_calls']:+7.0f} calls a step"
        print(f"{row['method']:8} {row['ratio']:5.3f}x {added}", file=sys.stderr)
        rows.append(row)
    if args.out:
        result = {"torch": torch.__version__, "steps": args.steps, "repeats": args.repeats, "methods": rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
