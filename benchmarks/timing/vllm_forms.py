"""Two forms of one edit on vLLM's rows: weights that are edited, and partial sums over groups of keys that are merged.

    python -m benchmarks.timing.vllm_forms --out benchmarks/results/vllm_forms.json

One layer of 8 requests at a decode step, 8 query and 4 key-value heads of 64, 640 keys of which 576 are the image's,
float32, one thread: from scores to the output, without the products of queries and keys, which both forms share.
"packed" is what the vLLM engine does; "on weights" multiplies weights by the factors of their groups; "merged" makes
one sum of values a group and scales these. Median and best of many turns; the forms take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from grounddecode import VAR, HeadModulation
from grounddecode.composition import edit_attention
from grounddecode.engines.grouped.merge import merged, scaled_weights
from grounddecode.method import Method
from grounddecode.view import Phase, StepView

ROWS, HEADS, KEY_HEADS, WIDTH, KEYS, IMAGE = 8, 8, 4, 64, 640, range(16, 592)
METHODS: tuple[Method, ...] = (HeadModulation(), VAR(sink_dims=(1,), rho=0.2))


def case(method: Method) -> dict[str, Callable[[], Tensor]]:
    """The forms, of the same numbers."""
    torch.manual_seed(0)
    scores, values = torch.randn(ROWS, HEADS, KEYS), torch.randn(ROWS * KEY_HEADS, KEYS, WIDTH)
    image = torch.zeros(ROWS, KEYS, dtype=torch.bool)
    image[:, IMAGE.start : IMAGE.stop] = True
    full = torch.full((ROWS,), KEYS - 1)
    step = StepView(
        phase=Phase.DECODE, step=1, n_layers=4, slots=torch.arange(ROWS), queries=full, keys=torch.arange(KEYS),
        image=image, image_end=torch.full((ROWS,), IMAGE.stop - 1), prompt_length=full, every_row=True,
        flags=torch.rand(ROWS, KEYS) < 0.02,
    )  # fmt: skip
    labels = method.key_groups(step)
    if method.groups == 4:
        labels = labels + 2 * step.flags.to(torch.uint8)
    member = torch.stack([labels == group for group in range(method.groups)], dim=1).float()  # once a step

    def of(weights: Tensor) -> Tensor:
        return torch.bmm(weights.view(ROWS * KEY_HEADS, -1, KEYS), values).view(ROWS, HEADS, WIDTH)

    def merge() -> Tensor:
        top = scores.amax(-1, keepdim=True)
        power = (scores - top).exp()
        apart = (power[:, :, None] * member[:, None]).view(ROWS * KEY_HEADS, -1, KEYS)
        sums = torch.bmm(apart, values).view(ROWS, HEADS, 1, method.groups, WIDTH)
        return merged(sums, top, (power @ member.mT)[:, :, None], method.group_factors)

    return {
        "packed": lambda: of(edit_attention([method], scores, step, 0)),
        "on weights": lambda: of(scaled_weights(scores.softmax(-1), labels, method.groups, method.group_factors)),
        "merged": merge,
    }


def measured(forms: dict[str, Callable[[], Tensor]], turns: int) -> dict[str, list[float]]:
    """Microseconds of every turn."""
    took: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(turns + 5):
        for name, form in forms.items():
            begin = time.thread_time()
            form()
            if turn >= 5:
                took[name].append(1e6 * (time.thread_time() - begin))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for method in METHODS:
        forms = case(method)
        expected = forms["packed"]()
        took = measured(forms, args.turns)
        for name, form in forms.items():
            error = float((form() - expected).abs().max())
            us = {"median_us": statistics.median(took[name]), "least_us": min(took[name])}
            rows.append({"method": method.name, "form": name, **us, "largest_difference": error})
            print(rows[-1], flush=True)
    about = (
        f"`python -m benchmarks.timing.vllm_forms --turns {args.turns} --out {args.out}`: one thread of a CPU, torch "
        f"{torch.__version__}; from scores to the output of one layer, {ROWS} requests, {KEYS} keys."
    )
    args.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
