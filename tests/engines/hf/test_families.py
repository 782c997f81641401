"""Every method on every family: eight greedy steps of a left-padded batch equal the dense oracle, or it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import AvisC, ground
from grounddecode.method import Needs
from grounddecode.view import StepView, StreamEdit
from tests import zoo
from tests.oracle.cases import EVERY_CASE, Case
from tests.oracle.whole import Oracle

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


WITH_A_SECOND_STREAM = [  # the others refuse it, see `refusal`
    (name, scheme)
    for name in zoo.FAMILIES
    for scheme in ("zeros", "mask")
    if name != "mllama" and (name, scheme) != ("qwen3_5", "mask")
]


class SecondStreamAlone(AvisC):
    """The logits of a stream that keeps no image token."""

    def second_stream(self, step: StepView) -> StreamEdit:
        return StreamEdit(keep=torch.zeros_like(step.image), scheme=self.scheme)

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        assert step.second_logits is not None
        return step.second_logits


@pytest.mark.parametrize(("name", "scheme"), WITH_A_SECOND_STREAM)
def test_nothing_of_the_picture_reaches_a_stream_that_keeps_none_of_it(name: str, scheme: Any) -> None:
    """Whatever the way in: features that early layers add again, image attention beside the sequence."""
    family, model = zoo.family(name), zoo.model(name)
    others = [tuple(token - 10 if token < 0 else token for token in row) for row in family.rows]
    with ground(model, SecondStreamAlone(scheme=scheme)):
        first, _ = generate(model, family.batch(), max_new_tokens=3)
        second, _ = generate(model, family.batch(others), max_new_tokens=3)
    plain = [generate(model, family.batch(rows), max_new_tokens=1)[0] for rows in (family.rows, others)]
    assert difference(first, second) <= TOLERANCE
    assert difference(*plain) > EFFECT


STANDING = ("llava", "qwen2_5_vl", "internvl", "gemma3")  # these four run every variant, the others the main forms
REFUSED = {  # family: what it cannot offer, and the words that say so
    "mllama": (Needs.IMAGE_KEYS | Needs.GRADIENT, "reads its images through cross-attention"),
    "paligemma": (Needs.GRADIENT, "tokens of the prompt look at later ones"),
    "qwen3_5": (Needs.GRADIENT, "has layers without attention"),
    "gemma4": (Needs.GRADIENT, "share keys, choose target layers above them"),
    "paligemma2": (Needs.GRADIENT, "tokens of the prompt look at later ones"),
}


def refusal(name: str, case: Case) -> str | None:
    """What the sentence must say if the case is refused on the family."""
    if case.only is not None and name not in case.only:
        return (
            "cannot be told from its image tokens|reads its images through cross-attention|are read by learnt queries|"
            "scheme 'mask' hides keys"
        )
    if name in case.refused:
        return case.refused[name]
    if name == "qwen3_5" and any(getattr(method, "scheme", None) == "mask" for method in case.methods):
        return "scheme 'mask' hides keys and some layers of this model have none"
    if name == "qwen3_5" and any(Needs.KEY_SETS in method.active_needs() for method in case.methods):
        return "have no keys to hide image tokens among"
    if name == "mllama" and any(Needs.HIDDEN_EDIT in method.active_needs() for method in case.methods):
        return "has no feed-forward network whose output is added as it is|reads its images through cross-attention"
    needed, words = REFUSED.get(name, (Needs.NOTHING, None))
    return words if any(needed & method.active_needs() for method in case.methods) else None


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name}-{case.name}")
        for name in zoo.FAMILIES
        for case in EVERY_CASE
        if name in STANDING or case.everywhere
    ],
)
def test_method_equals_dense_oracle(name: str, case: Case) -> None:
    family, model, inputs = zoo.family(name), zoo.model(name), zoo.family(name).batch()
    words = refusal(name, case)
    if words is not None:
        with pytest.raises(ValueError, match=words), ground(model, case.methods):
            generate(model, inputs, max_new_tokens=1)
        return
    steps = STEPS if name in STANDING else 4
    plain, plain_tokens = generate(model, inputs, max_new_tokens=steps)
    with ground(model, case.methods):
        logits, tokens = generate(model, inputs, max_new_tokens=steps)
    expected, expected_tokens = case.expected(model, family, inputs, steps)
    assert difference(logits, expected) <= TOLERANCE
    assert torch.equal(tokens, expected_tokens)
    if case.rejection is None:
        assert effect(logits, tokens, plain, plain_tokens) > EFFECT
    else:  # which token was chosen is the effect
        assert not torch.equal(tokens, plain_tokens)
