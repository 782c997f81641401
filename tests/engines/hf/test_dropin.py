"""The drop-in form: methods act in exactly the `generate` calls that list their processor, wherever it was made."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

import logits_processors
from grounddecode import AvisC, GroundedModel, HeadModulation, LocoRE, Trace, ground
from grounddecode.methods.attention.paint import PAINT
from grounddecode.registry import names
from logits_processors import AVCLogitsProcessor, AvisCLogitsProcessor, LocoRELogitsProcessor, PAINTLogitsProcessor
from logits_processors.hf import MethodLogitsProcessor
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.engines.hf.test_families import EFFECT, difference
from tests.zoo import make

ROOT = Path(__file__).parents[3]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
}
METHODS = [LocoRE(beta=5.0), AvisC(alpha=1.0), HeadModulation(alpha=4.0)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


@pytest.fixture(scope="module")
def tiny():
    return make("llava")


def run(model: Any, inputs: Any, generate: Callable[..., Any] | None = None, **options: Any) -> Tensor:
    """Logits of every step."""
    torch.manual_seed(4)
    settings = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    return torch.stack((generate or model.generate)(**inputs, **(settings | options)).logits)


@pytest.mark.parametrize("way", WAYS)
@each_method
def test_made_inside_the_call_it_gives_what_a_block_gives(tiny, method, way):
    model, inputs = tiny
    plain = run(model, inputs, **WAYS[way])
    before = footprint(model)  # transformers hangs things of its own on a model's first run
    with ground(model, method):
        expected = run(model, inputs, **WAYS[way])
    found = run(model, inputs, **WAYS[way], logits_processor=[MethodLogitsProcessor(model, method)])
    assert torch.equal(found, expected)
    assert found.shape != plain.shape or difference(found, plain) > EFFECT
    assert torch.equal(run(model, inputs, **WAYS[way]), plain)
    gc.collect()
    assert footprint(model) == before


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "gemma3", "blip2"])
def test_made_inside_the_call_on_several_families(name):
    if name not in zoo.FAMILIES:
        pytest.skip(f"{name} is not in the zoo")
    model, inputs = zoo.model(name), zoo.family(name).batch()
    with ground(model, [LocoRE(beta=3.0), AvisC(alpha=1.0)]):
        expected = run(model, inputs)
    made = [LocoRELogitsProcessor(model, beta=3.0), AvisCLogitsProcessor(model, alpha=1.0)]
    assert torch.equal(run(model, inputs, logits_processor=made), expected)


def test_the_readmes_line_word_for_word(tiny):
    """As it is written, in the place of the processor's inputs those of the tiny model."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    line = next(x for x in lines if "logits_processor=[" in x).partition("#")[0].strip()
    assert line == "ids = model.generate(**inputs, logits_processor=[AvisCLogitsProcessor(model)])"
    model, inputs = tiny
    with ground(model, AvisC()):
        expected = model.generate(**inputs)
    found: dict[str, Any] = {}
    exec(line, {"model": model, "inputs": inputs, "AvisCLogitsProcessor": AvisCLogitsProcessor}, found)
    assert torch.equal(found["ids"], expected)
    assert not torch.equal(expected, model.generate(**inputs))


class _Into(BaseStreamer):
    def __init__(self) -> None:
        self.queue: Queue[int | None] = Queue()

    def put(self, value: Tensor) -> None:
        for token in value.flatten().tolist():
            self.queue.put(token)

    def end(self) -> None:
        self.queue.put(None)


def test_in_a_thread_with_a_streamer(tiny):
    """The recipe of transformers' documentation, the processor made among the arguments."""
    model, inputs = make("llava")
    inputs = {key: value[:1] for key, value in zoo.family("llava").batch(zoo.ROWS[:1]).items()}
    with ground(model, LocoRE(beta=5.0)):
        expected = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0].tolist()
    stream = _Into()
    kwargs = {**inputs, "max_new_tokens": 6, "do_sample": False, "streamer": stream}
    kwargs["logits_processor"] = [LocoRELogitsProcessor(model, beta=5.0)]
    thread = Thread(target=model.generate, kwargs=kwargs)
    thread.start()
    assert list(iter(lambda: stream.queue.get(timeout=60), None)) == expected
    thread.join()


def test_in_lists_of_transformers_own_with_a_configuration_and_again_later(tiny):
    model, inputs = tiny
    plain, processor = run(model, inputs), LocoRELogitsProcessor(model, beta=5.0)
    config = GenerationConfig(max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True)
    with ground(model, LocoRE(beta=5.0)):
        expected = run(model, inputs)
    for _ in range(2):
        found = model.generate(**inputs, generation_config=config, logits_processor=LogitsProcessorList([processor]))
        assert torch.equal(torch.stack(found.logits), expected)
        assert torch.equal(run(model, inputs), plain)


def test_equals_the_context_manager_and_the_wrapped_model_in_list_order(tiny):
    model, inputs = tiny
    methods = [LocoRE(beta=5.0), AvisC(alpha=1.0)]
    with ground(model, methods):
        expected = run(model, inputs)
    listed = [LocoRELogitsProcessor(model, beta=5.0), AvisCLogitsProcessor(model, alpha=1.0)]
    assert torch.equal(run(model, inputs, logits_processor=listed), expected)
    assert torch.equal(run(model, inputs, logits_processor=listed), expected)
    assert torch.equal(run(GroundedModel(model, methods), inputs), expected)


def test_a_method_that_watches_the_vision_tower_sees_it_wherever_it_runs(tiny):
    """Newer releases run the tower before the decoding loop."""
    model, inputs = tiny
    processor = PAINTLogitsProcessor(model, alpha=0.9, beta=0.8, layers=(0, 4))
    with ground(model, processor.method):
        expected = run(model, inputs)
    plain = run(model, inputs)  # beside a living processor
    assert difference(plain, expected) > EFFECT
    assert torch.equal(run(model, inputs, logits_processor=[processor]), expected)
    other = inputs | {"pixel_values": inputs["pixel_values"].flip(-1)}
    run(model, other)
    assert torch.equal(run(model, inputs, logits_processor=[processor]), expected)


def test_nothing_lies_on_the_model_and_the_class_is_as_it_was_with_the_last_processor(tiny):
    model, _ = tiny
    before, kind = footprint(model), dict(vars(type(model)))
    first, second = AvisCLogitsProcessor(model), LocoRELogitsProcessor(model)
    assert footprint(model) == before
    first.close()
    first.close()
    assert dict(vars(type(model))) != kind
    del second
    gc.collect()
    assert dict(vars(type(model))) == kind


class _Raises(StoppingCriteria):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error", [ValueError("mine"), KeyboardInterrupt(), SystemExit()], ids=lambda e: type(e).__name__
)
@each_method
def test_an_exception_inside_a_call_leaves_the_model_as_it_was(tiny, method, error):
    model, inputs = tiny
    plain = run(model, inputs)  # transformers 5.16 hangs hooks of its own on the vision tower at its first run
    before, processor = footprint(model), MethodLogitsProcessor(model, method)
    expected = run(model, inputs, logits_processor=[processor])
    with pytest.raises(type(error)):
        run(model, inputs, logits_processor=[processor], stopping_criteria=[_Raises(error)])
    assert footprint(model) == before
    assert torch.equal(run(model, inputs), plain)
    assert torch.equal(run(model, inputs, logits_processor=[processor]), expected)


def test_a_processor_of_another_model_and_a_closed_one_say_so(tiny):
    model, inputs = tiny
    other, _ = make("llava")
    processor = AvisCLogitsProcessor(other)
    with pytest.raises(RuntimeError, match="built for another model than the one that generates"):
        run(model, inputs, logits_processor=[processor])
    mine = AvisCLogitsProcessor(model)
    mine.close()
    kept = AvisCLogitsProcessor(model)
    with pytest.raises(RuntimeError, match="was closed, build a new one"):
        run(model, inputs, logits_processor=[mine])
    kept.close()
    with pytest.raises(RuntimeError, match="was closed, build a new one"):
        run(model, inputs, logits_processor=[mine])


def test_a_decoding_loop_of_the_callers_own_says_so(tiny):
    model, inputs = tiny

    def loop(model: Any, input_ids: Tensor, logits_processor: Any, **_: Any) -> Tensor:
        return logits_processor(input_ids, torch.zeros(len(input_ids), 9))

    with pytest.raises(RuntimeError, match="custom_generate"):
        model.generate(**inputs, custom_generate=loop, logits_processor=[AvisCLogitsProcessor(model)])


def test_list_form_inside_a_block_is_refused(tiny):
    model, inputs = tiny
    processor = AvisCLogitsProcessor(model)
    with ground(model, LocoRE()), pytest.raises(RuntimeError, match="grounded already"):
        run(model, inputs, logits_processor=[processor])


class _Inner(LogitsProcessor):
    """Runs something inside the call, and keeps what it gave."""

    def __init__(self, inner: Callable[[], Any]) -> None:
        self.inner, self.found = inner, []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.found.append(self.inner())
        return scores


def test_a_call_inside_a_call_acts_by_its_own_processors_only(tiny):
    model, inputs = tiny
    plain = run(model, inputs)
    outer, inner = LocoRELogitsProcessor(model, beta=5.0), AvisCLogitsProcessor(model, alpha=1.0)
    expected, expected_inner = (run(model, inputs, logits_processor=[p]) for p in (outer, inner))
    kept = _Inner(lambda: (run(model, inputs), run(model, inputs, logits_processor=[inner])))
    assert torch.equal(run(model, inputs, logits_processor=[outer, kept]), expected)
    assert all(torch.equal(a, plain) and torch.equal(b, expected_inner) for a, b in kept.found)
    again = _Inner(lambda: run(model, inputs, logits_processor=[outer]))
    with pytest.raises(RuntimeError, match="at work in the generate call around this one"):
        run(model, inputs, logits_processor=[outer, again])


def test_each_processors_trace_and_calibration_count(tiny):
    model, inputs = tiny
    first, second = Trace(), Trace()
    listed = [LocoRELogitsProcessor(model, trace=first), AvisCLogitsProcessor(model, alpha=1.0, trace=second)]
    run(model, inputs, logits_processor=listed)
    assert first.events
    assert first.summary() == second.summary()
    run(model, inputs)
    assert first.summary() == second.summary()
    from grounddecode.calibration import Calibration, fingerprint

    known = ((0.4, 0.1, 0.2, 0.3),) * 4
    calibration = Calibration(checkpoint="tiny", fingerprint=fingerprint(model.config), head_sensitivity=known)
    heads = HeadModulation(alpha=4.0, sensitivity="calibrated")
    with ground(model, [LocoRE(beta=5.0), heads], calibration=calibration):
        expected = run(model, inputs)
    listed = [LocoRELogitsProcessor(model, beta=5.0), MethodLogitsProcessor(model, heads, calibration=calibration)]
    assert torch.equal(run(model, inputs, logits_processor=listed), expected)


def test_each_trace_gets_what_it_wants_itself(tiny):
    model, inputs = tiny
    wants = [
        {"want": {"candidates"}, "top": 2},
        {"want": {"candidates", "kept"}, "top": 4},
        {"want": {"image_mass"}},
        {},
    ]
    methods = [LocoRE(beta=5.0), AvisC(alpha=1.0), PAINT(alpha=0.9, beta=0.8, layers=(0, 4)), HeadModulation(alpha=4.0)]
    traces = [Trace(**want) for want in wants]
    listed = [MethodLogitsProcessor(model, m, trace=trace) for m, trace in zip(methods, traces, strict=True)]
    run(model, inputs, logits_processor=listed)
    for trace, want in zip(traces, wants, strict=True):
        alone = Trace(**want)
        with ground(model, methods, trace=alone):
            run(model, inputs)
        assert trace.to_json() == alone.to_json()


def test_one_method_twice_is_refused_unless_each_has_its_own_layers(tiny):
    model, inputs = tiny
    with pytest.raises(ValueError, match="locore was given twice for layer 0"):
        ground(model, [LocoRE(), LocoRE(beta=1.0)])
    twice = [LocoRELogitsProcessor(model), LocoRELogitsProcessor(model)]
    with pytest.raises(ValueError, match="locore was given twice"):
        run(model, inputs, logits_processor=twice)
    with ground(model, [LocoRE(beta=2.0, layers=(0,)), LocoRE(beta=4.0, layers=(1, 2))]):
        run(model, inputs)


def test_copies_and_pickles_of_a_processor_have_a_model_of_their_own(tiny):
    model, inputs = zoo.fresh("llava"), tiny[1]
    processor = AvisCLogitsProcessor(model, alpha=1.0)
    made_before = pickle.loads(pickle.dumps(processor))  # a model that has run holds hooks that no pickle takes
    expected = run(model, inputs, logits_processor=[processor])
    for made in (copy.deepcopy(processor), made_before):
        assert made.model is not model
        assert torch.equal(run(made.model, inputs, logits_processor=[made]), expected)


def test_names_follow_the_registry():
    assert AVCLogitsProcessor is AvisCLogitsProcessor
    assert AvisCLogitsProcessor.__name__ == "AvisCLogitsProcessor"
    for name in names():
        assert issubclass(getattr(logits_processors, name.upper() + "LogitsProcessor"), MethodLogitsProcessor)
    with pytest.raises(AttributeError, match="it has"):
        _ = logits_processors.NoSuchLogitsProcessor


def test_a_star_gives_the_classes():
    found: dict[str, Any] = {}
    exec("from logits_processors import *", found)
    assert found["AvisCLogitsProcessor"] is AvisCLogitsProcessor
    assert {*logits_processors.list_processors()} <= found.keys()


def test_bad_hyper_parameters_and_models_are_refused_at_construction(tiny):
    model, _ = tiny
    kind = dict(vars(type(model)))
    with pytest.raises(ValueError, match="avc: beta is 2"):
        AvisCLogitsProcessor(model, beta=2.0)
    with pytest.raises(ValueError, match="did you mean 'alpha'"):
        AvisCLogitsProcessor(model, alhpa=2.0)
    with pytest.raises(ValueError, match="read by learnt queries"):
        PAINTLogitsProcessor(zoo.model("blip2"))
    assert dict(vars(type(model))) == kind
