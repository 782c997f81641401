"""Saliency records and maps against autograd over whole sequences, and by their own sums."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import SGRS, AvisC, GroundedModel, LocoRE, Trace
from grounddecode.saliency import record_saliency, saliency_map
from tests import zoo
from tests.oracle.locore import LocoREEdit
from tests.oracle.whole import Oracle

STEPS = 4


def dense_rows(name: str, tokens: Tensor, edits: list, layers: tuple[int, ...]) -> list[Tensor]:
    """For each generated token (rows, T): unit rows of the head mean of |A * dL/dA|, averaged over layers."""
    family, model = zoo.family(name), zoo.model(name)
    inputs = family.batch()
    found = []
    for n in range(tokens.shape[1]):
        grown = family.extended(inputs, tokens[:, :n])
        context, logits = Oracle(model, family, edits).forward(grown, inputs["input_ids"].shape[1], gradient=True)
        total = sum(logits[row].log_softmax(0)[token] for row, token in enumerate(tokens[:, n].tolist()))
        gradients = torch.autograd.grad(total, [context.weights[layer] for layer in layers])
        rows = []
        for layer, gradient in zip(layers, gradients, strict=True):
            row = (context.weights[layer].detach() * gradient).abs().mean(1)[:, -1]
            rows.append(row / row.norm(dim=-1, keepdim=True))
        found.append(sum(rows) / len(rows))
    return found


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_record_equals_autograd_over_whole_sequences(name: str) -> None:
    family, model = zoo.family(name), zoo.model(name)
    record = record_saliency(
        model, family.batch(), LocoRE(beta=1.0), layers=(1, 2), max_new_tokens=STEPS, do_sample=False
    )
    expected = dense_rows(name, record.tokens, [LocoREEdit(1.0)], (1, 2))
    assert len(record.maps) == STEPS
    for ours, theirs in zip(record.maps, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_shares_previous_and_coherence_follow_from_the_maps() -> None:
    family, model, inputs = zoo.family("llava"), zoo.model("llava"), zoo.family("llava").batch()
    record = record_saliency(model, inputs, layers=(2,), max_new_tokens=STEPS, do_sample=False)
    assert record.sources == ("image 1", "image 2", "prompt", "output")
    prompt = inputs["input_ids"].shape[1]
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        at_image = [j for j, token in enumerate(ids) if token == family.image_token]
        for n, map_ in enumerate(record.maps):
            mass = map_[row].tolist()
            total = math.fsum(mass)
            image = math.fsum(mass[j] for j in at_image) / total
            output = math.fsum(mass[prompt:]) / total
            assert record.grounding[row, n].item() == pytest.approx(image, rel=1e-4)
            assert record.shares[row, n, 3].item() == pytest.approx(output, rel=1e-4, abs=1e-7)
            assert record.shares[row, n].sum().item() == pytest.approx(1.0, rel=1e-5)
            behind = mass[max(at_image) + 1 :]
            assert record.coherence[row, n].item() == pytest.approx(math.fsum(behind) / len(behind), rel=1e-4)
            assert record.previous[row, n].item() == mass[-1]
    first, second = record.shares[1, 0, 0], record.shares[1, 0, 1]
    assert first > 0
    assert second > 0
    assert bool((record.shares[[0, 2], :, 1] == 0).all())  # rows with one picture


def test_recording_changes_nothing() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    options = {"max_new_tokens": STEPS, "do_sample": False}
    plain = model.generate(**inputs, **options)[:, -STEPS:]
    record = record_saliency(model, inputs, **options)
    assert torch.equal(record.tokens, plain)
    logits = model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True).logits
    expected = torch.stack(logits, dim=1).log_softmax(-1).gather(2, plain[..., None])[..., 0]
    assert torch.allclose(record.log_probs, expected, atol=1e-5)
    assert torch.equal(model.generate(**inputs, **options)[:, -STEPS:], plain)
    torch.manual_seed(3)
    sampled = model.generate(**inputs, max_new_tokens=STEPS, do_sample=True)[:, -STEPS:]
    torch.manual_seed(3)
    assert torch.equal(record_saliency(model, inputs, max_new_tokens=STEPS, do_sample=True).tokens, sampled)


def test_an_answer_that_is_read_has_the_saliency_of_that_answer() -> None:
    """Tokens nobody would choose, against autograd over the whole sequences; a trace beside it sees the plain model."""
    family, model, inputs = zoo.family("llava"), zoo.model("llava"), zoo.family("llava").batch()
    answer = torch.tensor([[9, 4, 7], [5, 5, 6], [8, 4, 4]])
    trace = Trace(want={"tokens", "candidates"}, top=2)
    record = record_saliency(model, inputs, layers=(1,), answer=answer, trace=trace)
    assert torch.equal(record.tokens, answer)
    for ours, theirs in zip(record.maps, dense_rows("llava", answer, [], (1,)), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)
    steps = trace.steps()
    assert [step.tokens.tolist() for step in steps[1:]] == answer[:, :-1].T.tolist()
    for n, step in enumerate(steps):
        logits = Oracle(model, family).forward(family.extended(inputs, answer[:, :n]), inputs["input_ids"].shape[1])[1]
        assert step.candidates["model"].tolist() == logits.topk(2).indices.tolist()


def half(inside_of: Any = None) -> Any:
    """Autocast, around what stands in the context or inside of the forward of a model alone, as accelerate has it."""
    if inside_of is None:
        return torch.autocast("cpu", torch.bfloat16)
    inside_of.forward = torch.autocast("cpu", torch.bfloat16)(inside_of.forward)
    return nullcontext()


@pytest.mark.parametrize("place", ["around", "inside"])
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_saliency_under_autocast(name: str, place: str) -> None:
    """As far as half precision goes, beside whole sequences in single precision and under autocast."""
    family, model = zoo.family(name), zoo.fresh(name)
    answer = torch.tensor([[9, 4, 7, 8], [5, 5, 6, 9], [8, 4, 4, 7]])
    with half(model if place == "inside" else None):
        record = record_saliency(model, family.batch(), layers=(1, 2), answer=answer)
    exact = dense_rows(name, answer, [], (1, 2))
    with half():
        rounded = dense_rows(name, answer, [], (1, 2))
    for ours, single, dense in zip(record.maps, exact, rounded, strict=True):
        assert 1e-3 < float((dense - single).norm() / single.norm()) < 0.05
        assert 1e-3 < float((ours - single).norm() / single.norm()) < 0.03
        assert float((ours - dense).norm() / dense.norm()) < 0.05


@pytest.mark.parametrize("place", ["around", "inside"])
def test_steps_under_autocast_leave_nothing_for_those_without(place: str) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    forward, made = model.forward, GroundedModel(model, SGRS(layers=(0, 2), alpha=1.5))

    def answer() -> Tensor:
        options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        return torch.stack(made.generate(**inputs, max_new_tokens=6, **options).logits)

    before = answer()
    with half(model if place == "inside" else None):
        lowered = answer()
    model.forward = forward
    assert torch.equal(answer(), before)
    assert not torch.equal(lowered, before)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"answer": torch.tensor([[1]])}, "for 3 prompts"), ({"answer": torch.ones(3, 2).long(), "top_k": 1}, "top_k")],
)
def test_an_answer_that_cannot_be_read_is_refused(options, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        record_saliency(zoo.model("llava"), zoo.family("llava").batch(), **options)


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_last_row_of_the_full_map_is_the_first_record(name: str) -> None:
    family, model, inputs = zoo.family(name), zoo.model(name), zoo.family(name).batch()
    record = record_saliency(model, inputs, layers=(0, 3), max_new_tokens=1, do_sample=False)
    whole = saliency_map(model, inputs, record.tokens[:, 0])
    length = inputs["input_ids"].shape[1]
    assert whole.shape == (4, 3, length, length)
    assert torch.allclose(whole[[0, 3]].mean(0)[:, -1], record.maps[0], rtol=1e-4, atol=1e-6)
    assert not bool(whole.isnan().any())
    assert bool((whole.triu(1) == 0).all())
    assert family.name == name


def test_full_map_equals_autograd_and_its_norms() -> None:
    family, model, inputs = zoo.family("llava"), zoo.model("llava"), zoo.family("llava").batch()
    raw = saliency_map(model, inputs, 7, norm="none")
    context, logits = Oracle(model, family).forward(inputs, inputs["input_ids"].shape[1], gradient=True)
    odds = logits[:, 7] - torch.cat([logits[:, :7], logits[:, 8:]], dim=1).logsumexp(1)
    gradients = torch.autograd.grad(odds.sum(), [context.weights[layer] for layer in range(4)])
    for layer, gradient in enumerate(gradients):
        expected = (context.weights[layer].detach() * gradient).abs().mean(1)
        assert torch.allclose(raw[layer], expected, rtol=1e-3, atol=1e-8)
    signed = saliency_map(model, inputs, 7, norm="none", signed=True)
    assert float(signed.min()) < 0
    assert bool((signed.abs() <= raw + 1e-9).all())
    whole = saliency_map(model, inputs, 7, norm="fro")
    assert torch.allclose(whole.flatten(2).norm(dim=-1), torch.ones(4, 3))
    rows = saliency_map(model, inputs, 7).norm(dim=-1)
    assert bool(((rows - 1).abs() < 1e-5)[..., -1].all())


@pytest.mark.parametrize("method", [AvisC(), SGRS()])
def test_methods_that_decide_are_refused(method) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with pytest.raises(ValueError, match="decides on tokens itself"):
        record_saliency(model, inputs, method, max_new_tokens=1)
    with pytest.raises(ValueError, match="decides on tokens itself"):
        saliency_map(model, inputs, methods=method)


@pytest.mark.parametrize(("options", "reason"), [({"num_beams": 2}, "num_beams=1"), ({"use_cache": False}, "cache")])
def test_ways_to_generate_that_are_refused(options, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        record_saliency(zoo.model("llava"), zoo.family("llava").batch(), max_new_tokens=3, **options)


def test_wrong_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm is 'l1'"):
        saliency_map(zoo.model("llava"), zoo.family("llava").batch(), norm="l1")
