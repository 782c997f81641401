"""Gradients of the caller's through a forward pass under methods: right, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grounddecode import SGRS, VISTA, ground
from grounddecode.method import Needs
from tests import zoo
from tests.engines.hf.test_refusals import refused
from tests.oracle.cases import CASES, Case

PATHS = ("layers.0.self_attn.v_proj.weight", "layers.1.self_attn.q_proj.weight", "layers.2.mlp.up_proj.weight")
STEPS = (1e-3, 2e-4, 5e-5)


# VISTA's directions are constants to a gradient, see `test_directions_are_constants_to_a_gradient`.
FREE = [case for case in CASES if not any(Needs.PROBE in method.active_needs() for method in case.methods)]


@pytest.mark.parametrize("case", FREE, ids=lambda case: case.name)
@pytest.mark.parametrize("path", PATHS)
def test_a_number_moves_with_the_weights_as_its_gradient_says(case: Case, path: str) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    weight = zoo.at(model, zoo.family("llava").stack).get_parameter(path)
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))

    def number() -> Tensor:
        logits = model(**inputs).logits[:, -1]
        return torch.where(logits.isfinite(), logits, 0.0).square().sum()

    def measured(step: float) -> float:
        with torch.no_grad():
            weight.add_(step * change)
            above = number()
            weight.sub_(2 * step * change)
            below = number()
            weight.add_(step * change)
        return float(above - below) / (2 * step)

    with ground(model, case.methods):
        (slope,) = torch.autograd.grad(number(), weight)
        found = float((slope * change).sum())
        # a threshold of the method that is crossed on the way makes a jump, which no gradient knows of
        rounding = [0.1 + 2.0**-23 * abs(float(number().detach())) / step for step in STEPS]
        assert any(abs(measured(s) - found) <= 0.02 * abs(found) + r for s, r in zip(STEPS, rounding, strict=True))


def test_directions_are_constants_to_a_gradient() -> None:
    """A loss is refused; logits have the gradient of the steered model at the directions it has."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, VISTA()):
        refused(lambda: model(**inputs, labels=inputs["input_ids"]), ValueError, "vista", "leave labels out")


@pytest.mark.parametrize("case", FREE, ids=lambda case: case.name)
def test_a_loss_can_be_differentiated_in_a_block(case: Case) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with ground(model, case.methods):
        model(**inputs, labels=labels).loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert float(zoo.at(model, zoo.family("llava").stack).layers[0].self_attn.v_proj.weight.grad.norm()) > 0


def test_no_gradient_runs_through_a_choice() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, SGRS()):
        refused(lambda: model(**inputs, labels=inputs["input_ids"]), ValueError, "sgrs", "leave labels out")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradient_checkpointing(case: Case) -> None:
    """Layers would be computed again without methods; older versions take the cache away from `generate` too."""
    model, inputs = zoo.fresh("llava").train(), zoo.family("llava").batch()

    def tokens() -> Tensor:
        return model.generate(**inputs, max_new_tokens=4, do_sample=False)

    plain = tokens()
    with ground(model, case.methods):
        expected = tokens()
    model.gradient_checkpointing_enable()
    cached = torch.equal(tokens(), plain)
    with ground(model, case.methods):
        refused(lambda: model(**inputs), ValueError, case.methods[0].name, "gradient checkpointing", "model.eval()")
        if cached:
            assert torch.equal(tokens(), expected)
        else:
            refused(tokens, ValueError, "the cache holds nothing", "model.eval()")
        model.eval()
        assert torch.equal(tokens(), expected)
