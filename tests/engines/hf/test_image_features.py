"""Image features as they enter layer 0, padding in the view, and what methods tell a trace, by way of MemVR."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import AvisC, Trace, ground
from grounddecode.method import Method
from grounddecode.methods.layers.memvr import MemVR
from grounddecode.view import StepView
from tests import zoo
from tests.engines.hf.test_families import TOLERANCE, difference, generate
from tests.oracle.case import Case
from tests.oracle.memvr import CASES, Retracing

STEPS = 3
METHOD = MemVR(r=0.4, tau=0.99, layers=(0, 3))


class Spy(MemVR):
    """Keeps the views it is given."""

    seen: list[tuple[int, StepView]] = []  # noqa: RUF012

    def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
        self.seen.append((layer, step))
        return super().edit_hidden(output, given, step, layer)


def views(name: str, methods: Any, **options: Any) -> list[StepView]:
    Spy.seen.clear()
    model, inputs = zoo.model(name), zoo.family(name).batch()
    with ground(model, methods):
        model.generate(**inputs, **({"max_new_tokens": STEPS, "do_sample": False} | options))
    return [step for layer, step in Spy.seen if layer == 1]


def entering(name: str) -> list[Tensor]:
    """Of each row, what stands at its image tokens before the first layer of the plain model."""
    model, family, found = zoo.model(name), zoo.family(name), []
    stack = zoo.at(model, family.stack)
    hook = stack.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    inputs = family.batch()
    model.generate(**inputs, max_new_tokens=1, do_sample=False)
    hook.remove()
    image = inputs["input_ids"] == family.image_token
    return [hidden[flags] for hidden, flags in zip(found[0], image, strict=True)]


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "gemma4", "phi4_multimodal", "blip2"])
def test_every_row_has_its_own_features_all_the_way(name: str) -> None:
    wanted = entering(name)
    for step in views(name, Spy(r=0.4, tau=0.99, layers=(0, 3))):
        assert step.image_features is not None
        for features, own in zip(step.image_features, wanted, strict=True):
            torch.testing.assert_close(features[: len(own)], own.float())
            assert not features[len(own) :].any()


@pytest.mark.parametrize("asked", ["output_hidden_states", "output_attentions"])
@pytest.mark.parametrize("methods", [[MemVR(r=0.3, tau=0.0)], [MemVR(r=0.3, tau=0.0), AvisC(alpha=1.0)]], ids=len)
def test_what_is_given_out_changes_no_answer(methods: list[Method], asked: str) -> None:
    """Gemma 4 leaves out tokens of a prompt in its upper half, unless states of all of them are asked for."""
    model, inputs = zoo.model("gemma4"), zoo.family("gemma4").batch()
    with ground(model, methods):
        logits, tokens = generate(model, inputs, max_new_tokens=3)
        given_out, same = generate(model, inputs, max_new_tokens=3, **{asked: True})
    assert difference(given_out, logits) <= TOLERANCE
    assert torch.equal(same, tokens)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layers_that_share_keys_decide_for_the_whole_prompt_too(case: Case) -> None:
    model, family = zoo.model("gemma4"), zoo.family("gemma4")
    with ground(model, case.methods):
        logits, tokens = generate(model, family.batch(), max_new_tokens=STEPS)
    expected, expected_tokens = case.expected(model, family, family.batch(), STEPS)
    assert difference(logits, expected) <= TOLERANCE
    assert torch.equal(tokens, expected_tokens)


def test_a_second_stream_has_the_features_that_it_reads() -> None:
    steps = views("llava", [Spy(r=0.4, tau=0.99, layers=(0, 3)), AvisC(alpha=1.0)])
    main, second, *decoding = [step.image_features for step in steps]
    lost = (second == 0).all(dim=-1) & (main != 0).any(dim=-1)
    assert lost.any()
    assert torch.equal(second[~lost], main[~lost])
    assert all(torch.equal(both, torch.cat([main, second])) for both in decoding)


def test_padding_is_known_of_every_column() -> None:
    inputs = zoo.family("llava").batch()
    for step in views("llava", Spy(r=0.4, tau=0.99, layers=(0, 3))):
        assert step.padding is not None
        there = inputs["attention_mask"].bool()
        assert torch.equal(~step.padding[:, : there.shape[1]], there)
        assert not step.padding[:, there.shape[1] :].any()


def test_features_follow_beams() -> None:
    """Beams equal those of a model with the same hooks, row by row."""
    model, family = zoo.model("llava"), zoo.family("llava")
    inputs = family.batch()
    beams: Any = {"num_beams": 3, "max_new_tokens": STEPS, "do_sample": False}
    with ground(model, METHOD):
        found = model.generate(**inputs, **beams)
    three = {name: value.repeat_interleave(3, dim=0) for name, value in inputs.items() if name != "pixel_values"}
    with Retracing((0, 3), 0.4, 0.99).hooked(model, family, three):
        expected = model.generate(**inputs, **beams, use_cache=False)
    assert torch.equal(found, expected)
    assert not torch.equal(found, model.generate(**inputs, **beams))


def test_a_trace_is_told_where_and_how_unsure() -> None:
    """Whether it ran can be read off the trace, with a second stream beside it too."""
    model, inputs = zoo.model("internvl"), zoo.family("internvl").batch()
    told = []
    for methods in (METHOD, [METHOD, AvisC(alpha=0.001, beta=0.0)]):
        trace = Trace()
        with ground(model, methods, trace=trace):
            generate(model, inputs, max_new_tokens=1)
        told.append([torch.stack([e.value for e in trace.select(what, "memvr")]) for what in ("layer", "entropy")])
    (layer, entropy), beside = told
    assert torch.equal(layer.isnan(), entropy.isnan())
    assert bool((entropy[~entropy.isnan()] > 0.99).all())
    assert set(layer[~layer.isnan()].tolist()) <= {0.0, 1.0, 2.0}
    assert torch.equal(layer.nan_to_num(), beside[0].nan_to_num())


def test_sampling_draws_from_what_was_recalled() -> None:
    torch.manual_seed(3)
    model, family = zoo.model("llava"), zoo.family("llava")
    inputs = family.batch()
    with ground(model, METHOD):
        logits, tokens = generate(model, inputs, max_new_tokens=STEPS, do_sample=True)
    from tests.oracle.whole import Oracle

    with Retracing((0, 3), 0.4, 0.99).hooked(model, family, inputs):
        for step in range(STEPS):
            assert difference(logits[step], Oracle(model, family).logits(inputs, tokens[:, :step])[0]) <= TOLERANCE


def test_what_it_cannot_decide_for_is_refused() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, METHOD), pytest.raises(ValueError, match="memvr: every new token decides for itself"):
        generate(model, inputs, use_cache=False)
    with pytest.raises(ValueError, match=r"memvr: layers is \(2, 4\), it looks behind layers 2 to 3"):
        ground(model, MemVR(layers=(2, 4)))
