"""Every method on every family: eight greedy steps of a left-padded batch equal the dense oracle, or it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import ground
from tests import zoo
from tests.dense import Oracle
from tests.engines.cases import CASES, Case

STEPS = 8
TOLERANCE = 5e-6  # float32, logits of unit scale
EFFECT = 0.05  # what a method must move, or the comparison says nothing


def generate(model: Any, inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    """Raw logits (steps, rows, vocabulary) and new tokens (rows, steps) of a greedy generation."""
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    output = model.generate(**inputs, **(settings | options))
    return torch.stack(output.logits).float(), output.sequences[:, -len(output.logits) :]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of the finite logits; infinite if the cut tokens differ."""
    if not torch.equal(torch.isfinite(ours), torch.isfinite(theirs)):
        return float("inf")
    kept = torch.isfinite(ours)
    return float((ours[kept] - theirs[kept]).abs().max())


def effect(ours: Tensor, tokens: Tensor, plain: Tensor, plain_tokens: Tensor) -> float:
    """Largest change of a kept logit over the steps that had read the same tokens as the plain model."""
    same = torch.ones(tokens.shape[0], dtype=torch.bool)
    largest = 0.0
    for step in range(tokens.shape[1]):
        changed = (ours[step, same] - plain[step, same]).abs()
        largest = max(largest, float(changed[torch.isfinite(changed)].max())) if same.any() else largest
        same = same & (tokens[:, step] == plain_tokens[:, step])
    return largest


@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_oracle_without_methods_is_the_plain_model(name: str) -> None:
    family, model = zoo.family(name), zoo.model(name)
    logits, tokens = generate(model, family.batch())
    expected, expected_tokens = Oracle(model, family).greedy(family.batch(), STEPS)
    assert difference(logits, expected) <= TOLERANCE
    assert torch.equal(tokens, expected_tokens)
    assert 0.3 < float(logits.std()) < 3  # neither constant nor so large that the tolerance means nothing


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_method_equals_dense_oracle(name: str, case: Case) -> None:
    family, model, inputs = zoo.family(name), zoo.model(name), zoo.family(name).batch()
    plain, plain_tokens = generate(model, inputs)
    with ground(model, case.methods):
        logits, tokens = generate(model, inputs)
    expected, expected_tokens = Oracle(model, family, case.edits, case.contrast).greedy(inputs, STEPS)
    assert difference(logits, expected) <= TOLERANCE
    assert torch.equal(tokens, expected_tokens)
    assert effect(logits, tokens, plain, plain_tokens) > EFFECT
