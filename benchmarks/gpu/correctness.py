"""Every method on the device beside float32 on the CPU, on tiny models, with the tokens of the CPU forced upon it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from grounddecode import ground
from tests import zoo
from tests.oracle.cases import EVERY_CASE, Case

STEPS = 8  # the kernel for groups of keys begins with the fifth
FAMILIES = ("llava", "qwen2_5_vl", "gemma3", "internvl", "llava_next", "qwen2_vl")
EXACT = 1e-4  # largest difference of probabilities in float32, whose products the card sums in another order
# In bfloat16 a method may be off by this many times what the plain model is off, and by this much beside it. Where a
# rounded value crosses a threshold the method decides otherwise: the share of such rows is told, and bounded.
TIMES, BESIDE, CROSSED = 3.0, 0.01, 0.15


class Forced(LogitsProcessor):
    """The next tokens are given, whatever the model says."""

    def __init__(self, tokens: Tensor, prompt: int) -> None:
        self.tokens, self.prompt = tokens, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        step = min(input_ids.shape[1] - self.prompt, self.tokens.shape[1] - 1)
        return forced.scatter(1, self.tokens[:, step, None].to(scores.device), 0.0)


def probabilities(
    model: Any, inputs: dict[str, Tensor], case: Case | None, tokens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Next-token probabilities (steps, rows, vocabulary) and tokens (rows, steps), float32 on the CPU."""
    options: dict[str, Any] = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True}
    if tokens is not None:
        options["logits_processor"] = [Forced(tokens, inputs["input_ids"].shape[1])]
    with torch.no_grad(), ground(model, [] if case is None else list(case.methods)):
        output = model.generate(**inputs, **options, return_dict_in_generate=True)
    found = torch.stack(output.logits).float().softmax(-1).cpu()
    return found, output.sequences[:, -STEPS:].cpu()


def on(device: str, dtype: torch.dtype, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}


def variation(ours: Tensor, theirs: Tensor) -> Tensor:
    """Total variation of each step and row: (steps, rows)."""
    return 0.5 * (ours - theirs).abs().sum(-1)


def check(device: str, families: Sequence[str], precisions: Sequence[str], attentions: Sequence[str]) -> Iterator[dict]:
    """One line a (family, attention, precision, case)."""
    for name in families:
        family, reference = zoo.family(name), zoo.model(name)
        inputs = family.batch()
        known: dict[str, tuple[Tensor, Tensor] | str] = {}
        for case in [None, *EVERY_CASE]:
            if case is None or (case.everywhere and (case.only is None or name in case.only)):
                known["greedy" if case is None else case.name] = _known(reference, inputs, case)
        for attention in attentions:
            for precision in precisions:
                yield from _compared(name, device, attention, precision, inputs, known)


def _known(model: Any, inputs: dict[str, Tensor], case: Case | None) -> tuple[Tensor, Tensor] | str:
    """What float32 on the CPU says, or the sentence it refuses with."""
    try:
        return probabilities(model, inputs, case)
    except (ValueError, TypeError) as refusal:
        return str(refusal)


def _compared(
    name: str, device: str, attention: str, precision: str, inputs: dict[str, Tensor], known: dict[str, Any]
) -> Iterator[dict]:
    dtype = getattr(torch, precision)
    model = zoo.fresh(name).to(device, dtype)
    model.set_attn_implementation(attention)
    given = on(device, dtype, inputs)
    cases = {case.name: case for case in EVERY_CASE}
    off = 0.0
    for label, expected in known.items():
        line = {"family": name, "attention": attention, "precision": precision, "case": label}
        if isinstance(expected, str):
            yield line | {"refused": expected, "passed": True}
            continue
        try:
            ours, _ = probabilities(model, given, cases.get(label), expected[1])
        except Exception as error:  # a line of its own: the others go on
            yield line | {"error": f"{type(error).__name__}: {error}"[:300], "passed": False}
            continue
        apart = variation(ours, expected[0])
        if label == "greedy":
            off = float(apart.max())
        yield line | _verdict(apart, off, precision, label)


def _verdict(apart: Tensor, off: float, precision: str, label: str) -> dict[str, Any]:
    figures = {"median": float(apart.median()), "largest": float(apart.max())}
    if precision == "float32":
        return figures | {"passed": figures["largest"] <= EXACT}
    crossed = float((apart > TIMES * off + BESIDE).float().mean())
    bound = BESIDE if label == "greedy" else TIMES * off + BESIDE
    return figures | {
        "crossed": crossed,
        "passed": (label == "greedy" or crossed <= CROSSED) and figures["median"] <= bound,
    }
