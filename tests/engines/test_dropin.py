"""The drop-in form: methods act only in the `generate` calls that list their processor."""

import gc

import pytest
import torch

import logits_processors
from grounddecode import AvisC, GroundedModel, LocoRE, ground
from grounddecode.registry import names
from logits_processors import AVCLogitsProcessor, AvisCLogitsProcessor, LocoRELogitsProcessor
from logits_processors.hf import MethodLogitsProcessor
from tests.zoo import make


@pytest.fixture(scope="module")
def tiny():
    model, inputs = make("llava")

    def run(**options):
        out = model.generate(
            **inputs, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True, **options
        )
        return torch.stack(out.logits)

    return model, run


def test_acts_only_where_it_is_listed(tiny):
    model, run = tiny
    plain = run()
    processor = LocoRELogitsProcessor(model, beta=5.0)
    assert not torch.allclose(run(logits_processor=[processor]), plain, atol=0.05)
    assert torch.equal(run(), plain)
    assert not torch.allclose(run(logits_processor=[processor]), plain, atol=0.05)


def test_equals_the_context_manager_and_the_wrapped_model_in_list_order(tiny):
    model, run = tiny
    methods = [LocoRE(beta=5.0), AvisC(alpha=1.0)]
    with ground(model, methods):
        expected = run()
    listed = [LocoRELogitsProcessor(model, beta=5.0), AvisCLogitsProcessor(model, alpha=1.0)]
    assert torch.equal(run(logits_processor=listed), expected)
    processors = [MethodLogitsProcessor(model, method) for method in methods]
    assert torch.equal(run(logits_processor=processors), expected)
    wrapped = GroundedModel(model, methods)
    assert wrapped.config is model.config
    assert not vars(model).get("_grounddecode_session")


def test_the_wrapper_leaves_with_the_last_processor(tiny):
    model, _ = tiny
    before = dict(vars(model))
    first, second = AvisCLogitsProcessor(model), LocoRELogitsProcessor(model)
    assert "generate" in vars(model)
    first.close()
    assert "generate" in vars(model)
    del second
    gc.collect()
    assert vars(model).keys() == before.keys()


def test_a_processor_of_another_model_says_so(tiny):
    _, run = tiny
    other, _ = make("llava")
    processor = AvisCLogitsProcessor(other)
    with pytest.raises(RuntimeError, match="built for another model"):
        run(logits_processor=[processor])


def test_list_form_inside_a_session_is_refused(tiny):
    model, run = tiny
    processor = AvisCLogitsProcessor(model)
    with ground(model, LocoRE()), pytest.raises(RuntimeError, match="grounded already"):
        run(logits_processor=[processor])


def test_names_follow_the_registry():
    assert AVCLogitsProcessor is AvisCLogitsProcessor
    assert AvisCLogitsProcessor.__name__ == "AvisCLogitsProcessor"
    for name in names():
        assert issubclass(getattr(logits_processors, name.upper() + "LogitsProcessor"), MethodLogitsProcessor)
    with pytest.raises(AttributeError, match="it has"):
        _ = logits_processors.NoSuchLogitsProcessor


def test_bad_hyper_parameters_are_refused_at_construction(tiny):
    model, _ = tiny
    with pytest.raises(ValueError, match="avc: beta is 2"):
        AvisCLogitsProcessor(model, beta=2.0)
    with pytest.raises(ValueError, match="did you mean 'alpha'"):
        AvisCLogitsProcessor(model, alhpa=2.0)
    assert "generate" not in vars(model)
