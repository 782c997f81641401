"""What the prompt of a method, and a decode step, multiply at least: a floor for the ratios of `speed`, counted.

    python -m benchmarks.floor.products --out benchmarks/results/products.json

Multiplications and additions of matrix products, convolutions and attention (every query with every key, which the
masks of a prompt spare in part), as ratios to the plain model, on the 8-layer model of `speed`. A method keeps its
place from call to call, so what `cicd` keeps of its references is there. Copies, norms and what the host does come on
top.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing.speed import PLAIN, clocked_generate
from benchmarks.timing.subjects import placed, random_model

STEPS = 4
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of one call of attention, from the shapes of its tensors."""
    rows, heads, queries, width = query
    return 2 * rows * heads * queries * key[2] * (width + value[3])


def flops(model: Any, spec: str, inputs: dict[str, Any], tokens: int) -> int:
    with FlopCounterMode(display=False, custom_mapping={ATTENTION: attention_flops}) as counter:
        clocked_generate(model, spec, inputs, tokens)
    return int(counter.get_total_flops())


def counted(model: Any, spec: str, inputs: dict[str, Any]) -> tuple[int, float]:
    """Of the prompt, and of a step."""
    clocked_generate(model, spec, inputs, 1)  # reads what later calls have in common
    prompt = flops(model, spec, inputs, 1)
    return prompt, (flops(model, spec, inputs, 1 + STEPS) - prompt) / STEPS


def measured(specs: list[str]) -> list[dict[str, Any]]:
    """One row a method, of one request."""
    model, make = random_model()
    inputs, rows = make(1), []
    plain = counted(model, PLAIN, inputs)
    for spec in specs:
        prompt, step = counted(placed(model, spec), spec, inputs)
        rows.append({"method": spec, "prefill_ratio": prompt / plain[0], "decode_ratio": step / plain[1]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="cicd,cicd:references=1,m3id,icd,vcd")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = measured(args.methods.split(","))
    for row in rows:
        line = f"{row['method']:18} prefill {row['prefill_ratio']:.3f}x  step {row['decode_ratio']:.3f}x"
        print(line, file=sys.stderr)
    command = " ".join(["python -m benchmarks.floor.products", *sys.argv[1:]])
    if args.out:
        args.out.write_text(json.dumps({"command": command, "methods": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
