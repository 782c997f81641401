"""What one decode step makes the device do, counted: operations of torch that start work, per method.

    python -m benchmarks.timing.launches --out benchmarks/results/launches.json

A step of one row on a fast card waits for the host, so what a method costs there is the operations it adds. They can be
counted anywhere: LLaVA-1.5-7B's depth and prompt with a tiny width, bfloat16, on the CPU. Views and bare allocations
start nothing and do not count. What only a card takes is not in the figures: there `paint`, `pai` and `vaf` go by one
kernel a layer, `heads`, `spin` and `var` by two (`grounddecode.engines.grouped`); the gradients of `sgrs` are one graph
(`grounddecode.engines.hf.saliency.graphed`). What the host does besides is in `benchmarks.timing.host`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.shapes import Shape, _sizes, llava
from benchmarks.timing.speed import PLAIN, generate

LAYERS = 32
SHAPE = Shape(
    _sizes(32, 64, LAYERS, 4, num_key_value_heads=4, vocab_size=1000, max_position_embeddings=1024),
    _sizes(32, 64, 2, 2, image_size=336, patch_size=14),
)
FIRST, STEPS = 3, 16  # the steps that are counted: some work is done for sixteen at a time
NOTHING = (
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "_unsafe_view",
    "_reshape_alias",
    "detach",
    "lift_fresh",
)


class Count(TorchDispatchMode):
    """Counts by name what is called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if starts_work(func):
            self.seen[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def starts_work(func: Any) -> bool:
    """False for views, bare allocations and questions about types."""
    if func._schema.name.startswith("aten::_foreach_"):  # those in place return nothing
        return True
    if not any("Tensor" in str(given.type) for given in func._schema.returns):
        return False
    looks = [given.alias_info for given in func._schema.returns]
    view = any(alias is not None and not alias.is_write for alias in looks)
    return not view and func._schema.name.removeprefix("aten::") not in NOTHING


def counted(model: Any, spec: str, inputs: dict[str, Any], first: int = FIRST, steps: int = STEPS) -> Counter[str]:
    """Operations by name in `steps` decode steps, from the one with number `first` on."""
    from transformers import LogitsProcessor

    class Mark(LogitsProcessor):
        def __init__(self, count: Count) -> None:
            self.count, self.seen = count, [Counter[str]()]

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.seen.append(self.count.seen.copy())
            return scores

    with torch.no_grad(), Count() as count:
        mark = Mark(count)
        options = {"max_new_tokens": first + steps + 1, "do_sample": False, "logits_processor": [mark]}
        generate(model, spec, inputs, options)
    return mark.seen[first + steps + 1] - mark.seen[first + 1]


def measured(specs: list[str], first: int = FIRST, steps: int = STEPS) -> list[dict[str, Any]]:
    """One row a method: operations a step, those it adds, and which."""
    torch.manual_seed(0)
    model, make = llava(SHAPE, "cpu", torch.bfloat16)
    inputs, rows = make(1), []
    plain = counted(model, PLAIN, inputs, first, steps)
    for spec in specs:
        try:
            found = counted(model, spec, inputs, first, steps)
        except ValueError as error:  # directions or heads that are known of real models alone
            rows.append({"method": spec, "refused": str(error)})
            continue
        more = {name: (found[name] - plain[name]) / steps for name in found.keys() | plain.keys()}
        rows.append(
            {
                "method": spec,
                "a_step": found.total() / steps,
                "ratio": found.total() / plain.total(),
                "added": (found.total() - plain.total()) / steps,
                "which": {name: n for name, n in sorted(more.items(), key=lambda pair: -pair[1]) if n},
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="comma-separated; by default all that are registered")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    from grounddecode import registry

    rows = measured(args.methods.split(",") if args.methods else [*registry.names()])
    for row in (row for row in rows if "refused" not in row):
        print(f"{row['method']:8} {row['ratio']:5.2f}x {row['added']:+8.1f} a step  {row['which']}", file=sys.stderr)
    result = {"torch": torch.__version__, "layers": LAYERS, "steps": STEPS, "methods": rows}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
