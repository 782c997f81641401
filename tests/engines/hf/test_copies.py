"""Copies and pickles of models beside methods, and of `GroundedModel`."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from grounddecode import AvisC, GroundedModel, HeadModulation, LocoRE, ground
from grounddecode.engines.hf.transformers_names import CACHE
from grounddecode.method import Method
from logits_processors.hf import MethodLogitsProcessor
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.engines.hf.test_families import EFFECT, difference, generate

METHODS = [LocoRE(beta=5.0), AvisC(alpha=1.0), HeadModulation(alpha=4.0)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


HOW: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
}


def turned(model: Any) -> Any:
    """Other weights, the same ones at each call."""
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(zoo.model("llava").get_output_embeddings().weight.flip(0))
    return model


@pytest.mark.parametrize("beside", ["block", "processor"])
@pytest.mark.parametrize("how", HOW)
@each_method
def test_a_copy_answers_with_its_own_weights_and_can_be_grounded(method: Method, how: str, beside: str) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    own, plain = generate(turned(copy.deepcopy(model)), inputs)[0], generate(zoo.model("llava"), inputs)[0]
    with ground(turned(copy.deepcopy(model)), method) as session:
        grounded = generate(session.model, inputs)[0]
    before = footprint(model)
    with ExitStack() as stack:
        if beside == "block":
            stack.enter_context(ground(model, method))
        else:
            stack.callback(MethodLogitsProcessor(model, method).close)
        made = HOW[how](model)
        assert {*vars(made)} == {*before["module "]}
        made = turned(made)
        assert torch.equal(generate(made, inputs)[0], own)
        with ground(made, method):
            assert torch.equal(generate(made, inputs)[0], grounded)
    assert torch.equal(generate(made, inputs)[0], own)
    assert footprint(model).keys() == before.keys()
    assert torch.equal(generate(model, inputs)[0], plain)


@pytest.mark.parametrize("how", [copy.copy, *HOW.values()], ids=["copy", *HOW])
@each_method
def test_copies_of_a_grounded_model_give_the_same_answer(method: Method, how: Callable[[Any], Any]) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    made = how(GroundedModel(model, method))
    with ground(zoo.model("llava"), method):
        expected = generate(zoo.model("llava"), inputs)[0]
    assert isinstance(made, GroundedModel)
    assert torch.equal(generate(made, inputs)[0], expected)
    assert (made.lm_head is model.lm_head) == (how is copy.copy)


def test_what_hands_the_model_back_hands_the_grounded_model_back() -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    both = GroundedModel(model, AvisC(alpha=1.0))
    assert both.train() is both
    assert model.training
    for same in (both.eval(), both.to("cpu"), both.float(), both.requires_grad_(False)):
        assert same is both
    assert both.half() is both
    assert model.dtype == torch.float16
    both.float()
    assert both.num_parameters() == model.num_parameters()
    assert both.config is model.config
    both.generation_config = config = copy.deepcopy(model.generation_config)
    assert model.generation_config is config
    with ground(model, AvisC(alpha=1.0)):
        expected = generate(model, inputs)[0]
    assert torch.equal(generate(both.eval(), inputs)[0], expected)
    with pytest.raises(AttributeError, match="no_such"):
        _ = both.no_such


@each_method
def test_a_grounded_model_can_be_called(method: Method) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with torch.no_grad():
        plain = model(**inputs).logits
        with ground(model, method):
            expected = model(**inputs).logits
        assert torch.equal(GroundedModel(model, method)(**inputs).logits, expected)
        assert torch.equal(model(**inputs).logits, plain)
    assert difference(expected, plain) > EFFECT


class _Chats(LlavaForConditionalGeneration):
    """What remote code of a model adds: ways to run it that end in its own `generate`, or in forward passes."""

    def chat(self, inputs: Any, **options: Any) -> Any:
        return self.generate(**inputs, **options)

    def streamed(self, inputs: Any, tokens: Tensor) -> Any:
        output = self(**inputs, use_cache=True)
        yield output.logits[:, -1]
        for token in tokens:
            cache = {name: getattr(output, name) for name in CACHE if getattr(output, name, None) is not None}
            output = self(input_ids=token[:, None], **cache)
            yield output.logits[:, -1]

    def named(self) -> str:
        return "chats"

    def myself(self) -> Any:
        return self


@pytest.mark.parametrize("around", ["nothing", "peft"])
@each_method
def test_what_a_models_own_code_runs_is_under_the_methods(method: Method, around: str) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch([(1, 5, 6, -1, 7, 8)])
    model.__class__ = _Chats
    if around == "peft":
        peft = pytest.importorskip("peft")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))  # as made it adds nothing
    both = GroundedModel(model if around == "nothing" else wrapped, method)
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    tokens = torch.tensor([[11], [12], [13]])
    with torch.no_grad():
        plain = [model(**inputs).logits, *model.streamed(inputs, tokens), *model.chat(inputs, **options).logits]
        with ground(model, method):
            expected = [model(**inputs).logits, *model.streamed(inputs, tokens), *model.chat(inputs, **options).logits]
        streamed = []
        for logits in both.streamed(inputs, tokens):
            streamed.append(logits)
            assert torch.equal(model(**inputs).logits, plain[0])  # between its steps the model is plain
        found = [both.forward(**inputs).logits, *streamed, *both.chat(inputs, **options).logits]
    for one, right, other in zip(found, expected, plain, strict=True):
        assert torch.equal(one, right)
        assert difference(right, other) > EFFECT
    assert both.named() == "chats"
    assert (both.myself() is both) == (around == "nothing")
    with ground(model, method), pytest.raises(RuntimeError, match="grounded already"):
        both.chat(inputs, **options)


@each_method
def test_another_attention_kernel_after_the_object_was_made(method: Method) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    both, processor = GroundedModel(model, method), MethodLogitsProcessor(model, method)
    expected = generate(both, inputs)[0]
    with ground(model, method):
        for kernel in ("eager", "sdpa"):
            both.set_attn_implementation(kernel)
            assert difference(generate(model, inputs)[0], expected) < 1e-5
    model.set_attn_implementation("eager")
    assert difference(generate(both, inputs)[0], expected) < 1e-5
    assert difference(generate(model, inputs, logits_processor=[processor])[0], expected) < 1e-5


def test_methods_by_specification() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, [LocoRE(beta=5.0), AvisC(alpha=1.0)]):
        expected = generate(model, inputs)[0]
    for given in ("locore:beta=5.0+avc:alpha=1.0", ["locore:beta=5.0", AvisC(alpha=1.0)]):
        with ground(model, given):
            assert torch.equal(generate(model, inputs)[0], expected)
        assert torch.equal(generate(GroundedModel(model, given), inputs)[0], expected)


def test_continuous_batching_of_a_grounded_model_is_refused() -> None:
    both = GroundedModel(zoo.model("llava"), AvisC(alpha=1.0))
    with pytest.raises(ValueError, match="avc: continuous batching"):
        both.generate_batch([[1, 2]])
