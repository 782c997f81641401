"""Every method on the device beside float32 on the CPU, on tiny models, with the tokens of the CPU forced upon it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import LogitsProcessor

from grounddecode import SGRS, ground
from grounddecode.engines.hf.saliency.graphed import Graphed
from tests import zoo
from tests.oracle.cases import EVERY_CASE, Case

STEPS = 8  # the kernel for groups of keys begins with the fifth
FAMILIES = ("llava", "qwen2_5_vl", "gemma3", "internvl", "llava_next", "qwen2_vl")
EXACT = 1e-4  # largest difference of probabilities in float32, whose products the card sums in another order
# In bfloat16 the card may be off by this many times what the CPU is off in bfloat16, and by this much beside it. Where
# a rounded value crosses a threshold (a chosen set, the surest layer) a method decides otherwise, on the CPU too: the
# share of such steps and rows, further off than the plain model ever is, is told and bounded in the same way.
TIMES, BESIDE, CROSSED = 2.0, 0.01, 0.15


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


def check(
    device: str,
    families: Sequence[str],
    precisions: Sequence[str],
    attentions: Sequence[str],
    wanted: Sequence[str] | None = None,
    until: float = math.inf,
) -> Iterator[dict]:
    """One line a (family, attention, precision, case).

    Args:
        wanted: beginnings of names of cases, by default all.  until: by `time.monotonic`; what is left gets one line.
    """
    for name in families:
        inputs = zoo.family(name).batch()
        known: dict[str, tuple[Tensor, Tensor] | str] = {}
        for case in [None, *EVERY_CASE]:
            if case is None or (case.everywhere and _runs(case, name, wanted)):
                known["greedy" if case is None else case.name] = _known(zoo.model(name), inputs, case)
        rounded = zoo.fresh(name).to(torch.bfloat16)
        rounding = dict(_apart(rounded, on("cpu", torch.bfloat16, inputs), known)) if "bfloat16" in precisions else {}
        for attention in attentions:
            for precision in precisions:
                model = zoo.fresh(name).to(device, getattr(torch, precision))
                model.set_attn_implementation(attention)
                given = on(device, getattr(torch, precision), inputs)
                line = {"family": name, "attention": attention, "precision": precision}
                for case, found in _apart(model, given, known):
                    yield line | {"case": case} | _verdict(found, rounding.get(case), rounding.get("greedy"), precision)
                    if time.monotonic() > until:
                        yield line | {"skipped": "the time was up"}
                        return


def graphs(device: str) -> Iterator[dict]:
    """Whether gradients go by a graph there: one that is refused changes nothing but the time.

    `largest`: how far its first replays are, as a share, from the same without a graph.
    """
    tried, method = Graphed._tried, SGRS(layers=(1, 2), alpha=0.9)
    for name, precision in itertools.product(FAMILIES[:1], ("float32", "bfloat16")):
        dtype = getattr(torch, precision)
        model, inputs = zoo.fresh(name).to(device, dtype), on(device, dtype, zoo.family(name).batch())
        trials: list[tuple[float, bool]] = []

        def seen(self: Graphed, found: Sequence[Tensor], expected: list[Tensor]) -> list[Tensor]:
            pairs = zip(found, expected, strict=True)
            apart = max(float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs)
            given = tried(self, found, expected)
            trials.append((apart, not self.refused))  # noqa: B023
            return given

        with mock.patch.object(Graphed, "_tried", seen), ground(model, method):
            model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
        line = {"case": "sgrs by a graph", "family": name, "precision": precision, "trials": len(trials)}
        largest = max((apart for apart, _ in trials), default=math.nan)
        yield line | {"largest": largest, "passed": [taken for _, taken in trials] == [True, True]}


def _runs(case: Case, family: str, wanted: Sequence[str] | None) -> bool:
    """Whether a case is one of the family's, and asked for."""
    named = wanted is None or case.name.startswith(tuple(wanted))
    return named and (case.only is None or family in case.only)


def _known(model: Any, inputs: dict[str, Tensor], case: Case | None) -> tuple[Tensor, Tensor] | str:
    """What float32 on the CPU says, or the sentence it refuses with."""
    try:
        return probabilities(model, inputs, case)
    except (ValueError, TypeError) as refusal:
        return str(refusal)


def _apart(model: Any, inputs: dict[str, Tensor], known: dict[str, Any]) -> Iterator[tuple[str, Tensor | dict]]:
    """Total variation (steps, rows) of every case against what is known, or a refusal, or an error."""
    cases = {case.name: case for case in EVERY_CASE}
    for label, expected in known.items():
        if isinstance(expected, str):
            yield label, {"refused": expected, "passed": True}
            continue
        try:
            ours, _ = probabilities(model, inputs, cases.get(label), expected[1])
        except Exception as error:  # a line of its own: the others go on
            yield label, {"error": f"{type(error).__name__}: {error}"[:300], "passed": False}
            continue
        yield label, variation(ours, expected[0])


def _verdict(found: Tensor | dict, rounding: Any, plain: Any, precision: str) -> dict[str, Any]:
    if isinstance(found, dict):
        return found
    figures = {"median": float(found.median()), "largest": float(found.max())}
    if precision == "float32" or not isinstance(rounding, Tensor):
        return figures | {"passed": figures["largest"] <= EXACT}
    bound = 3 * float(plain.max()) + BESIDE  # further off than the plain model ever is
    figures |= {"crossed": float((found > bound).float().mean()), "cpu_median": float(rounding.median())}
    figures |= {"cpu_crossed": float((rounding > bound).float().mean())}
    return figures | {"passed": close(figures)}


def close(figures: dict[str, float]) -> bool:
    """Whether the card is as right in bfloat16 as the CPU is."""
    steady = figures["median"] <= TIMES * figures["cpu_median"] + BESIDE
    return steady and figures["crossed"] <= TIMES * figures["cpu_crossed"] + CROSSED
