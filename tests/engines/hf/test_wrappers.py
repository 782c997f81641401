"""Models inside wrappers: PEFT, accelerate, quantised layers, a pipeline, and wrappers that nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from grounddecode import SGRS, AvisC, GroundedModel, HeadModulation, LocoRE, ground
from grounddecode.method import Method
from grounddecode.methods.attention.paint import PAINT
from grounddecode.methods.attention.var import VAR
from grounddecode.methods.contrast.icd import ICD
from grounddecode.methods.contrast.m3id import M3ID
from grounddecode.methods.contrast.vcd import VCD
from grounddecode.methods.layers.deco import DeCo
from grounddecode.methods.layers.dola import DoLa
from grounddecode.methods.layers.memvr import MemVR
from grounddecode.methods.layers.vista import VISTA
from grounddecode.saliency import record_saliency
from logits_processors.hf import MethodLogitsProcessor
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.engines.hf.test_families import EFFECT, TOLERANCE, difference, generate

METHODS = [
    LocoRE(beta=5.0),
    AvisC(alpha=1.0),
    SGRS(layers=(0, 2), alpha=1.5),
    HeadModulation(alpha=4.0),
    PAINT(alpha=0.9, beta=0.8, layers=(0, 4)),
]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def equal_in_every_form(wrapped: Any, method: Method, expected: Any, tolerance: float = TOLERANCE) -> None:
    inputs = zoo.family("llava").batch()
    plain = generate(wrapped, inputs)[0]
    with ground(wrapped, method):
        assert difference(generate(wrapped, inputs)[0], expected) <= tolerance
    assert difference(generate(GroundedModel(wrapped, method), inputs)[0], expected) <= tolerance
    made = MethodLogitsProcessor(wrapped, method)
    assert difference(generate(wrapped, inputs, logits_processor=[made])[0], expected) <= tolerance
    assert torch.equal(generate(wrapped, inputs)[0], plain)
    assert difference(plain, expected) > EFFECT


def grounded(model: Any, method: Method) -> Any:
    with ground(model, method):
        return generate(model, zoo.family("llava").batch())[0]


def adapted() -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(zoo.fresh("llava"), config).eval()


@each_method
def test_an_adapted_model_answers_as_the_merged_one(method: Method) -> None:
    expected = grounded(adapted().merge_and_unload(), method)
    assert difference(grounded(zoo.model("llava"), method), expected) > EFFECT  # the adapter does something
    equal_in_every_form(adapted(), method, expected, 1e-4)
    merged = adapted()
    merged.merge_adapter()
    equal_in_every_form(merged, method, expected, 1e-4)


EMBEDDINGS: dict[str, dict[str, Any]] = {
    "low rank": {"target_modules": ["embed_tokens", "q_proj"], "init_lora_weights": False},
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 7, 70]},
    "whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


@pytest.mark.parametrize("kind", EMBEDDINGS)
@pytest.mark.parametrize("method", [AvisC(alpha=1.0), VCD(), M3ID(), ICD(instruction=(70, 71))], ids=lambda m: m.name)
def test_an_adapted_embedding_answers_as_the_merged_one(method: Method, kind: str) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(
        zoo.fresh("llava"), peft.LoraConfig(r=2, task_type="CAUSAL_LM", **EMBEDDINGS[kind])
    ).eval()
    for name, parameter in model.named_parameters():
        if "trainable_tokens" in name or "modules_to_save" in name:
            parameter.data += torch.randn_like(parameter)
    found = grounded(model, method)
    assert difference(found, grounded(zoo.model("llava"), method)) > EFFECT
    assert difference(found, grounded(model.merge_and_unload(), method)) <= 1e-4


def test_forward_and_saliency_of_an_adapted_model() -> None:
    model, inputs = adapted(), zoo.family("llava").batch()
    base = model.get_base_model()
    with torch.no_grad(), ground(base, AvisC(alpha=1.0)):
        expected = base(**inputs).logits
    before = footprint(base)
    with torch.no_grad(), ground(model, AvisC(alpha=1.0)):
        assert torch.equal(model(**inputs).logits, expected)
    assert footprint(base) == before
    found, right = (record_saliency(m, inputs, layers=(0, 2), max_new_tokens=3, do_sample=False) for m in (model, base))
    assert torch.equal(found.shares, right.shares)


def test_adapters_of_learnt_tokens_are_refused() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    model = peft.get_peft_model(zoo.fresh("llava"), config)
    with pytest.raises(ValueError, match="puts learnt tokens before the prompt"):
        ground(model, LocoRE())


@each_method
@pytest.mark.parametrize("kind", ["dispatched", "offloaded", "on disk"])
def test_accelerates_hooks(method: Method, kind: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    cpu = torch.device("cpu")
    make: dict[str, Callable[[Any], Any]] = {
        "dispatched": lambda model: accelerate.dispatch_model(model, device_map={"": "cpu"}, force_hooks=True),
        "offloaded": lambda model: accelerate.cpu_offload(model, execution_device=cpu),
        "on disk": lambda model: accelerate.disk_offload(model, offload_dir=str(tmp_path), execution_device=cpu),
    }
    equal_in_every_form(make[kind](zoo.fresh("llava")), method, grounded(zoo.model("llava"), method))


@pytest.mark.parametrize("method", [METHODS[0], METHODS[1], METHODS[3]], ids=lambda method: method.name)
def test_quantised_layers(method: Method) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model = zoo.fresh("llava")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    equal_in_every_form(model, method, grounded(model, method))
    with pytest.raises(ValueError, match="sgrs: the output embedding"), ground(model, SGRS(layers=(0, 2))):
        pass


class _Wrapper(nn.Module):
    """A wrapper that nobody knows, around a model that it generates with, or another."""

    def __init__(self, model: Any, run: Any = None) -> None:
        super().__init__()
        self.inner = model
        self.run = [run or model]  # no submodule

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.run[0].generate(*args, **kwargs)


@each_method
def test_any_wrapper_around_the_model_that_generates(method: Method) -> None:
    equal_in_every_form(_Wrapper(zoo.model("llava")), method, grounded(zoo.model("llava"), method))


def test_a_wrapper_that_runs_another_model_is_an_error_not_a_plain_answer() -> None:
    wrapped, inputs = _Wrapper(zoo.model("llava"), zoo.fresh("llava")), zoo.family("llava").batch()
    with pytest.raises(RuntimeError, match="no forward pass of LlavaForConditionalGeneration was seen"):
        generate(GroundedModel(wrapped, LocoRE()), inputs)


@pytest.mark.parametrize("form", ["block", "processor", "object"])
def test_a_forward_that_never_reaches_the_model_is_an_error(form: str) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    plain = model.forward
    processor = MethodLogitsProcessor(model, LocoRE(beta=5.0))
    if form == "block":
        with ground(model, LocoRE(beta=5.0)):
            model.forward = plain  # takes the place of what the block put there
            with pytest.raises(RuntimeError, match="no forward pass of LlavaForConditionalGeneration was seen"):
                generate(model, inputs)
        return
    model.forward = plain  # what was there before is built on
    expected = grounded(zoo.model("llava"), LocoRE(beta=5.0))
    chosen = GroundedModel(model, LocoRE(beta=5.0)) if form == "object" else model
    options = {} if form == "object" else {"logits_processor": [processor]}
    assert difference(generate(chosen, inputs, **options)[0], expected) <= TOLERANCE
    assert vars(model)["forward"] == plain


class _Around(nn.Module):
    """A wrapper that nobody knows, around a part of a model."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.part(*args, **kwargs)


def _compiled(part: nn.Module) -> Any:
    return torch.compile(part, backend="eager")


def with_parts_wrapped(wrap: Callable[[nn.Module], nn.Module], whole: bool = False) -> Any:
    """A model with all attention modules of its decoder wrapped, or all whole layers."""
    model = zoo.fresh("llava")
    layers = zoo.at(model, zoo.family("llava").stack).layers
    for at, layer in enumerate(layers):
        layers[at] = wrap(layer) if whole else layer
        layer.self_attn = layer.self_attn if whole else wrap(layer.self_attn)
    return model


@pytest.mark.filterwarnings("ignore:the compiled forward pass")
@pytest.mark.parametrize("whole", [False, True], ids=["attention", "layer"])
@pytest.mark.parametrize("wrap", [_Around, _compiled], ids=["unknown", "compiled"])
def test_a_wrapper_around_the_parts_of_the_decoder_changes_nothing(wrap: Any, whole: bool) -> None:
    model, plain, inputs = with_parts_wrapped(wrap, whole), zoo.model("llava"), zoo.family("llava").batch()
    for method in (VAR(sink_dims=(3, 11), tau=1.5, p=0.9, rho=0.2), SGRS(layers=(0, 2), alpha=1.5)):
        expected = grounded(plain, method)
        assert difference(grounded(model, method), expected) <= TOLERANCE
        assert difference(generate(plain, inputs)[0], expected) > EFFECT
    options = {"layers": (0, 2), "max_new_tokens": 3, "do_sample": False}
    found, right = (record_saliency(m, inputs, **options) for m in (model, plain))
    assert torch.allclose(found.shares, right.shares, atol=1e-6, equal_nan=True)


def test_layers_inside_of_a_wrapper_are_not_computed_again_in_the_backward_pass() -> None:
    model = with_parts_wrapped(_Around, whole=True).train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="locore: gradient checkpointing"), ground(model, LocoRE()):
        model(**zoo.family("llava").batch())


def test_attention_that_lies_in_no_list_of_layers_is_refused() -> None:
    model = zoo.fresh("llava")
    stack = zoo.at(model, zoo.family("llava").stack)
    stack.others = nn.ModuleList([stack.layers[-1]])
    stack.layers = stack.layers[:-1]
    with pytest.raises(ValueError, match="lies in no list 'layers' of 4 decoder layers"):
        ground(model, LocoRE())


def _another_head(model: Any) -> None:
    torch.manual_seed(5)
    head = nn.Linear(model.lm_head.in_features, model.lm_head.out_features, bias=False)
    model.set_output_embeddings(head.requires_grad_(False))
    head.weight.mul_(3)


def _resized(model: Any) -> None:
    torch.manual_seed(5)
    model.resize_token_embeddings(zoo.VOCABULARY + 22, mean_resizing=False)


READING_THE_HEAD = [
    MemVR(r=0.4, tau=0.99, layers=(0, 3)), DoLa(exits=(1, 2, 3)), DeCo(alpha=2.0), VISTA(lamb=0, gamma=0.6),
    SGRS(layers=(0, 2), alpha=1.5),
]  # fmt: skip


@pytest.mark.parametrize("change", [_another_head, _resized])
@pytest.mark.parametrize("method", READING_THE_HEAD, ids=lambda method: method.name)
def test_the_unembedding_is_the_one_that_the_model_has_now(method: Method, change: Callable[[Any], None]) -> None:
    model, other, inputs = zoo.fresh("llava"), zoo.fresh("llava"), zoo.family("llava").batch()
    made, processor = GroundedModel(model, method), MethodLogitsProcessor(model, method)
    before = generate(made, inputs)[0]
    change(model)
    change(other)
    expected = grounded(other, method)
    assert expected.shape != before.shape or difference(before, expected) > EFFECT
    assert difference(generate(made, inputs)[0], expected) <= TOLERANCE
    assert difference(generate(model, inputs, logits_processor=[processor])[0], expected) <= TOLERANCE


@pytest.mark.parametrize("saved", [None, ["lm_head"]])
def test_an_adapted_unembedding_is_to_be_merged_where_gradients_are_asked_for(saved: list[str] | None) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"] if saved else ["lm_head"], modules_to_save=saved)
    model = peft.get_peft_model(zoo.fresh("llava"), config).eval()
    with pytest.raises(ValueError, match=r"sgrs: the output embedding is adapted .* merge_and_unload"):
        grounded(model, SGRS(layers=(0, 2)))
    assert grounded(model.merge_and_unload(), SGRS(layers=(0, 2), alpha=1.5)).isfinite().all()


def test_a_wrapped_unembedding_is_not_called_quantised() -> None:
    model = zoo.fresh("llava")
    model.lm_head = _Around(model.lm_head)
    with pytest.raises(ValueError, match=r"sgrs: the output embedding is _Around, .* wrapped around it"):
        grounded(model, SGRS(layers=(0, 2)))


class _Inherits(LlavaForConditionalGeneration):
    """A subclass, as of a remote-code model."""


class _CallsOn(LlavaForConditionalGeneration):
    """One with a loop of its own around the one of its base."""

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        return super()._sample(*args, **kwargs)


@pytest.mark.parametrize("last", ["base", "subclass"])
@pytest.mark.parametrize("kind", [_Inherits, _CallsOn])
@each_method
def test_a_subclass_of_a_class_that_is_caught_too(method: Method, kind: type, last: str) -> None:
    base, model, inputs = zoo.model("llava"), zoo.fresh("llava"), zoo.family("llava").batch()
    plain, expected = generate(base, inputs)[0], grounded(base, method)
    model.__class__ = kind
    kinds = [dict(vars(x)) for x in (LlavaForConditionalGeneration, kind)]
    both = [base, model] if last == "subclass" else [model, base]
    alive = [MethodLogitsProcessor(x, method) for x in both]
    for _ in both:
        equal_in_every_form(model, method, expected)
        equal_in_every_form(base, method, expected)
        assert torch.equal(generate(model, inputs)[0], plain)
        alive.pop(0).close()
    assert [dict(vars(x)) for x in (LlavaForConditionalGeneration, kind)] == kinds
