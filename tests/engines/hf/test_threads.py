"""Calls of several threads on one model: each gives what it gives alone, and a plain one is never touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from threading import Barrier, Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import StoppingCriteria

from grounddecode import SGRS, AvisC, GroundedModel, LocoRE, ground
from grounddecode.method import Method
from grounddecode.methods.attention.paint import PAINT
from logits_processors.hf import MethodLogitsProcessor
from tests import zoo
from tests.engines.hf.footprint import footprint

METHODS = [
    LocoRE(beta=5.0),
    AvisC(alpha=1.0),
    SGRS(layers=(0, 2), alpha=1.5),
    PAINT(alpha=0.9, beta=0.8, layers=(0, 4)),
]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
ROUNDS = 4


@pytest.fixture
def model() -> Any:
    return zoo.model("llava")


def batches() -> list[dict[str, Tensor]]:
    return [zoo.family("llava").batch([row]) for row in zoo.ROWS]


def ids(generate: Callable[..., Tensor], inputs: dict[str, Tensor], **options: Any) -> list[list[int]]:
    return generate(**inputs, max_new_tokens=12, do_sample=False, **options).tolist()


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What every call gives when all begin at once."""
    found: list[Any] = [None] * len(calls)
    gate = Barrier(len(calls))

    def work(place: int) -> None:
        gate.wait()
        try:
            found[place] = calls[place]()
        except BaseException as error:
            found[place] = error

    threads = [Thread(target=work, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@each_method
def test_in_one_block_and_of_one_object(model: Any, method: Method) -> None:
    with ground(model, method):
        right = [ids(model.generate, x) for x in batches()]
        before = footprint(model)
        for _ in range(ROUNDS):
            assert together([lambda x=x: ids(model.generate, x) for x in batches()]) == right
        assert footprint(model) == before
    both = GroundedModel(model, method)
    for _ in range(ROUNDS):
        assert together([lambda x=x: ids(both.generate, x) for x in batches()]) == right


@each_method
def test_plain_calls_beside_a_processors(model: Any, method: Method) -> None:
    first, second, third = batches()
    plain, kept = [ids(model.generate, x) for x in (second, third)], MethodLogitsProcessor(model, method)
    right, before = ids(model.generate, first, logits_processor=[kept]), footprint(model)
    assert right != ids(model.generate, first)
    calls = [
        lambda: ids(model.generate, first, logits_processor=[kept]),
        lambda: ids(model.generate, second),
        lambda: ids(model.generate, first, logits_processor=[MethodLogitsProcessor(model, method)]),
        lambda: ids(model.generate, third),
    ]
    for _ in range(ROUNDS):
        assert together(calls) == [right, plain[0], right, plain[1]]
    assert footprint(model) == before


def test_different_methods_beside_each_other(model: Any) -> None:
    first, second, third = batches()
    chosen = [GroundedModel(model, method) for method in METHODS[:2]]
    kept = MethodLogitsProcessor(model, METHODS[2])
    calls = [
        lambda: ids(chosen[0].generate, first),
        lambda: ids(chosen[1].generate, second),
        lambda: ids(model.generate, third, logits_processor=[kept]),
        lambda: ids(model.generate, third),
    ]
    right = [call() for call in calls]
    for _ in range(ROUNDS):
        assert together(calls) == right


class _Waits(StoppingCriteria):
    def __init__(self) -> None:
        self.begun, self.go = Event(), Event()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.begun.set()
        self.go.wait(60)
        return torch.zeros(len(input_ids), dtype=torch.bool)


@each_method
def test_leaving_a_block_while_a_call_runs_in_it_is_refused_and_that_call_keeps_its_methods(
    model: Any, method: Method
) -> None:
    inputs = batches()[0]
    plain, before, waits = ids(model.generate, inputs), footprint(model), _Waits()
    with ground(model, method):
        right = ids(model.generate, inputs)
    found: list[Any] = []
    thread = Thread(target=lambda: found.append(ids(model.generate, inputs, stopping_criteria=[waits])))
    block = ground(model, method)
    block.__enter__()
    thread.start()
    assert waits.begun.wait(60)
    with pytest.raises(RuntimeError, match="cannot be copied while a generate call with methods runs"):
        copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="left while a generate call of another thread runs"):
        block.__exit__(None)
    assert ids(model.generate, inputs) == plain  # the block is over
    waits.go.set()
    thread.join()
    assert found == [right]
    assert footprint(model) == before


def test_a_block_that_ends_by_an_exception_says_that_one(model: Any) -> None:
    waits, inputs = _Waits(), batches()[0]
    thread = Thread(target=lambda: ids(model.generate, inputs, stopping_criteria=[waits]))
    block = ground(model, LocoRE())
    block.__enter__()
    thread.start()
    assert waits.begun.wait(60)
    block.__exit__(KeyError)
    waits.go.set()
    thread.join()


def test_a_block_beside_a_block_is_refused(model: Any) -> None:
    with ground(model, LocoRE()):
        found = together(
            [ground(model, AvisC()).__enter__, lambda: ids(GroundedModel(model, AvisC()).generate, batches()[0])]
        )
    assert all("grounded already" in str(error) for error in found)
