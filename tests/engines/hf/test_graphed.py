"""Decode steps as a card takes them, whose way back is one graph: here a function that each replay calls anew."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import correctness
from grounddecode import SGRS, HeadModulation, LocoRE, Trace, ground
from grounddecode.engines.grouped.replay import PAYS_FROM
from grounddecode.engines.hf.saliency import form, graphed
from grounddecode.engines.saliency.stage import Stage
from grounddecode.method import Method
from grounddecode.saliency import record_saliency
from tests import zoo
from tests.engines.hf.test_saliency import dense_rows
from tests.engines.hf.test_written import judged
from tests.engines.test_stage import Recording
from tests.oracle.locore import LocoREEdit

STEPS = 14
REPLAYS = STEPS - PAYS_FROM  # the first of them with what it was recorded with
METHOD = SGRS(layers=(1, 2), alpha=0.9)
ONE = zoo.family("llava").rows[:1]


@dataclass
class Seen:
    """What graphs did."""

    recorded: int = 0
    replays: int = 0
    fills: list[bool] = field(default_factory=list)  # whether all keys were copied


def by_hand(seen: Seen, change: Callable[[Tensor, int], Tensor]) -> type:
    class ByHand:
        """In place of `Replay`: what a graph could not hold is an error here, too."""

        def __init__(self, function: Any, inputs: Any) -> None:
            self.function, self.inputs, self.output = function, tuple(inputs), function(*inputs)
            seen.recorded += 1

        def __call__(self) -> Tensor:
            seen.replays += 1
            with Recording():
                found = self.function(*self.inputs)
            return self.output.copy_(change(found, seen.replays))  # where the last one lay

    return ByHand


@contextmanager
def as_on_a_card(change: Callable[[Tensor, int], Tensor] = lambda found, _: found) -> Iterator[Seen]:
    seen, fill = Seen(), Stage.fill

    def filled(self: Stage, taken: Any, own: int, bias: Any, cached: Any = None) -> None:
        seen.fills.append(cached is not None)
        fill(self, taken, own, bias, cached)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphed, "can_record", lambda tensor: True)
        patch.setattr(graphed, "Replay", by_hand(seen, change))
        patch.setattr(Stage, "fill", filled)
        yield seen


def run(model: Any, family: str = "llava", methods: Any = METHOD, rows: Any = None, **options: Any) -> Any:
    """The tokens and the saliency of each step."""
    torch.manual_seed(0)
    settings = {"max_new_tokens": STEPS, "do_sample": False} | options
    with judged() as found, ground(model, methods):
        tokens = model.generate(**zoo.family(family).batch(rows), **settings)
    return tokens, [value for _, value in found]


def check_same(found: Any, expected: Any, far: float = 1e-5) -> None:
    assert torch.equal(found[0], expected[0])
    assert len(found[1]) == len(expected[1])
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert mine.shape == theirs.shape
        there = theirs.isfinite()
        assert torch.equal(there, mine.isfinite())
        assert float((mine - theirs)[there].norm()) <= far * float(theirs[there].norm())


def by_autograd(*args: Any, **options: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "parts_of", lambda *_: None)
        return run(*args, **options)


ADDED = [True, *[False] * (REPLAYS - 1)]  # what is copied: all keys, then the newest of each block

CASES: dict[str, dict[str, Any]] = {
    "one row, no mask": {"rows": ONE},
    "padded rows": {},
    "a static cache": {"cache_implementation": "static"},
    "samples of each row": {"num_return_sequences": 2, "do_sample": True},
    "gains on keys": {"methods": [LocoRE(beta=3.0), METHOD]},
    "gains on keys of a static cache": {"methods": [LocoRE(beta=3.0), METHOD], "cache_implementation": "static"},
    "gains on keys of one row": {"methods": [LocoRE(beta=3.0), METHOD], "rows": ONE},
    "the lowest layer": {"methods": SGRS(layers=(0,), alpha=0.9)},
    "the highest layer": {"methods": SGRS(layers=(3,), alpha=0.9)},
    "many candidates": {"methods": SGRS(layers=(1, 2), alpha=0.9, top_k=9)},
}


@pytest.mark.parametrize("case", CASES)
def test_it_says_the_same(case: str) -> None:
    model, options = zoo.model("llava"), CASES[case]
    with as_on_a_card() as seen:
        found = run(model, **options)
    assert (seen.recorded, seen.replays, seen.fills) == (1, REPLAYS, ADDED)
    check_same(found, run(model, **options))
    check_same(found, by_autograd(model, **options))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "mistral3", "llava_next", "smolvlm"])
def test_in_other_families(family: str) -> None:
    model = zoo.model(family)
    with as_on_a_card() as seen:
        found = run(model, family)
    check_same(found, by_autograd(model, family))
    if family != "qwen2_5_vl":  # 5.16 gives blocks angles of three axes
        assert seen.replays == REPLAYS


def test_a_graph_that_is_full_is_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "room_for", lambda keys: keys + 2)
    model = zoo.model("llava")
    with as_on_a_card() as seen:
        found = run(model)
    assert seen.recorded == 4
    assert seen.fills == [True, False, False] * 3 + [True]
    check_same(found, by_autograd(model))


def test_records_are_those_of_whole_sequences() -> None:
    """Of one token a step, beside autograd over all that was read."""
    model, inputs, count = zoo.model("llava"), zoo.family("llava").batch(), PAYS_FROM + 4
    with as_on_a_card() as seen:
        record = record_saliency(model, inputs, LocoRE(beta=1.0), layers=(1, 2), max_new_tokens=count, do_sample=False)
    assert seen.fills == [True, False, False, False]
    expected = dense_rows("llava", record.tokens, [LocoREEdit(1.0)], (1, 2))
    for ours, theirs in zip(record.maps, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_each_call_has_its_own() -> None:
    """Weights may be other ones meanwhile."""
    model = zoo.fresh("llava")
    down = model.model.language_model.layers[2].mlp.down_proj
    inputs, options = zoo.family("llava").batch(), {"max_new_tokens": STEPS, "do_sample": False}
    with as_on_a_card() as seen, ground(model, METHOD):
        model.generate(**inputs, **options)
        down.weight = torch.nn.Parameter(2 * down.weight.detach())
        with judged() as steps:
            tokens = model.generate(**inputs, **options)
    assert seen.fills == ADDED + ADDED
    check_same((tokens, [value for _, value in steps]), by_autograd(model))


def test_its_memory_ends_with_the_call() -> None:
    stages, begin = [], Stage.__init__

    def begun(self: Stage, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        stages.append(weakref.ref(self))

    model = zoo.model("llava")
    with as_on_a_card(), ground(model, METHOD), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "__init__", begun)
        model.generate(**zoo.family("llava").batch(), max_new_tokens=STEPS, do_sample=False)
        gc.collect()
        assert [stage() for stage in stages] == [None]


def test_a_trace_sees_the_same() -> None:
    """Also where it looks at the attention of every layer."""
    model, inputs, traces = zoo.model("llava"), zoo.family("llava").batch(), []
    for context in (as_on_a_card(), nullcontext()):
        trace = Trace(want={"image_mass", "candidates"})
        with context, ground(model, METHOD, trace=trace):
            model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
        traces.append(trace.events)
    assert len(traces[0]) == len(traces[1])
    for mine, theirs in zip(*traces, strict=True):
        assert (mine.step, mine.method, mine.what, mine.layer) == (
            theirs.step,
            theirs.method,
            theirs.what,
            theirs.layer,
        )
        torch.testing.assert_close(mine.value, theirs.value, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_forwards_by_hand_have_none() -> None:
    """Other dialogues, other weights: anything may lie between two of them."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch(ONE)
    with as_on_a_card() as seen, torch.no_grad(), ground(model, METHOD):
        output = model(**inputs, use_cache=True)
        for _ in range(7):
            token = output.logits[:, -1:].argmax(-1)
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
    assert seen.recorded == 0


# -- what somebody does to the cache between two steps -----------------------------------------------------------------
def doubled_in_place(cache: Any) -> None:
    cache.layers[2].keys[:, :, :3] *= 2


def other_values(cache: Any) -> None:
    cache.layers[2].values = cache.layers[2].values * 1.5


CHANGES = [doubled_in_place, other_values]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_that_somebody_changed_is_read_anew(change: Callable[[Any], None], kind: str) -> None:
    model = zoo.model("llava")
    from transformers import DynamicCache, LogitsProcessor, StaticCache

    def once() -> Any:
        room = {"max_cache_len": 64, "config": model.config.get_text_config(decoder=True)}
        cache = DynamicCache() if kind == "dynamic" else StaticCache(**room)

        class Change(LogitsProcessor):
            seen = 0

            def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
                self.seen += 1
                if self.seen == 9:
                    change(cache)
                return scores

        return run(model, past_key_values=cache, logits_processor=[Change()])

    with as_on_a_card() as seen:
        found = once()
    changed = ADDED.copy()
    changed[9 - PAYS_FROM] = True
    assert seen.fills == changed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "parts_of", lambda *_: None)
        check_same(found, once())


def test_a_cache_of_another_kind_is_copied_at_every_step() -> None:
    """Say, one that keeps its tokens in fewer bits."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    class Rough(DynamicLayer):
        def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().update((8 * keys).round() / 8, values, *args, **kwargs)

    model = zoo.model("llava")

    def once() -> Any:
        cache = DynamicCache()
        cache.layer_class_to_replicate = Rough
        return run(model, past_key_values=cache)

    with as_on_a_card() as seen:
        found = once()
    assert seen.fills == [True] * (REPLAYS)
    check_same(found, once())


# -- what cannot be ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [1, 2])
def test_a_graph_that_says_something_else_is_refused(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """Be it the first time, or the first time that a column was added."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    options = {"max_new_tokens": STEPS, "do_sample": False}

    def change(found: Tensor, replay: int) -> Tensor:
        return 1.01 * found if replay == number else found

    with as_on_a_card(change) as seen, judged() as steps, ground(model, METHOD):
        tokens = [model.generate(**inputs, **options) for _ in range(2)]
    assert (seen.recorded, seen.replays) == (1, number)  # nor tried by the next call
    assert torch.equal(*tokens)
    check_same((tokens[0], [value for _, value in steps][:STEPS]), run(model))
    assert [record.message for record in caplog.records if "something else" in record.message]


def test_what_cannot_be_recorded_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    model = zoo.model("llava")

    def refuse(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with as_on_a_card(), pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(graphed, "Replay", refuse)
        found = run(model)
    check_same(found, run(model))
    assert [record.message for record in caplog.records if record.message.endswith("stream is capturing")]


def test_layers_that_differ_go_on_without() -> None:
    model = zoo.model("llava")
    methods: list[Method] = [LocoRE(beta=3.0, layers=(2,)), METHOD]
    with as_on_a_card() as seen:
        found = run(model, methods=methods)
    assert seen.recorded == 0
    check_same(found, by_autograd(model, methods=methods))


def test_edits_that_are_no_gains_keep_autograd() -> None:
    model = zoo.model("llava")
    with as_on_a_card() as seen:
        found = run(model, methods=[HeadModulation(alpha=4.0), METHOD])
    assert seen.recorded == 0
    check_same(found, run(model, methods=[HeadModulation(alpha=4.0), METHOD]))


def test_without_a_card_there_is_none() -> None:
    seen = Seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphed, "Replay", by_hand(seen, lambda found, _: found))
        run(zoo.model("llava"))
    assert seen.recorded == 0


def test_what_asks_a_card_tells_whether_a_graph_was_taken() -> None:
    with as_on_a_card():
        assert [line["passed"] for line in correctness.graphs("cpu")] == [True, True]
    with as_on_a_card(lambda found, replay: found + 1):
        assert [line["passed"] for line in correctness.graphs("cpu")] == [False, False]
    assert [line["trials"] for line in correctness.graphs("cpu")] == [0, 0]
