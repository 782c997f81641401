"""What every method of the registry promises inside the Hugging Face engine; nothing here knows any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor

from grounddecode import ground, registry
from grounddecode.method import Method
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.oracle.cases import EVERY_CASE, Case

STEPS = 5
TOLERANCE = 5e-6


def neutral(name: str) -> list[Method]:
    """A method switched off, in every way that it has."""
    cls = registry.method_class(name)
    off = {field.name: field.metadata["neutral"] for field in fields(cls) if "neutral" in field.metadata}
    ways = [off] if cls.all_switches else [{name: value} for name, value in off.items()]
    return [registry.create(name, **settings) for settings in ways]


NEUTRAL = [method for name in registry.names() for method in neutral(name)]
MAIN = [case for case in EVERY_CASE if case.everywhere or len(case.methods) > 1]
every_case = pytest.mark.parametrize("case", MAIN, ids=lambda case: case.name)


def generate(model: Any, inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    output = model.generate(**inputs, **(settings | options))
    return torch.stack(output.logits).float(), output.sequences[:, -STEPS:]


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE)  # infinities must agree


@pytest.fixture(params=["llava", "gemma3"])
def family(request: pytest.FixtureRequest) -> zoo.Family:
    return zoo.family(request.param)


@pytest.mark.parametrize("method", NEUTRAL, ids=repr)
def test_neutral_is_bit_identical(method: Method, family: zoo.Family) -> None:
    model, inputs = zoo.model(family.name), family.batch()
    plain, _ = generate(model, inputs)
    with ground(model, method):
        neutral, _ = generate(model, inputs)
    assert torch.equal(neutral, plain)


@every_case
def test_leaving_gives_the_model_back(case: Case, family: zoo.Family) -> None:
    model, inputs = zoo.model(family.name), family.batch()
    plain, _ = generate(model, inputs)
    before = footprint(model)
    with ground(model, case.methods):
        generate(model, inputs)
    assert footprint(model) == before
    assert torch.equal(generate(model, inputs)[0], plain)


class _Interruption(Exception):
    pass


class _FailAtThirdStep(LogitsProcessor):
    calls = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise _Interruption
        return scores


def _fail_in_processor(model: Any, inputs: dict[str, Tensor]) -> None:
    generate(model, inputs, logits_processor=[_FailAtThirdStep()])


def _fail_in_layer(model: Any, inputs: dict[str, Tensor]) -> None:
    def fail(*_: Any) -> None:
        raise _Interruption

    handle = zoo.at(model, zoo.family("llava").stack).layers[2].register_forward_pre_hook(fail)
    try:
        generate(model, inputs)
    finally:
        handle.remove()


@every_case
@pytest.mark.parametrize("fail", [_fail_in_processor, _fail_in_layer])
def test_an_exception_leaves_nothing(case: Case, fail: Callable[[Any, dict[str, Tensor]], None]) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    plain, _ = generate(model, inputs)
    before = footprint(model)
    with pytest.raises(_Interruption), ground(model, case.methods):
        fail(model, inputs)
    assert footprint(model) == before
    assert torch.equal(generate(model, inputs)[0], plain)


@every_case
def test_a_session_survives_an_exception(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, case.methods):
        expected, _ = generate(model, inputs)
        with pytest.raises(_Interruption):
            _fail_in_processor(model, inputs)
        with pytest.raises(_Interruption):
            _fail_in_layer(model, inputs)
        assert torch.equal(generate(model, inputs)[0], expected)


@every_case
def test_rows_may_come_in_any_order(case: Case, family: zoo.Family) -> None:
    model, order = zoo.model(family.name), [2, 0, 1]
    with ground(model, case.methods):
        logits, _ = generate(model, family.batch())
        moved, _ = generate(model, family.batch([family.rows[i] for i in order]))
    assert close(moved, logits[:, order])


@every_case
def test_a_batch_equals_its_rows_alone(case: Case, family: zoo.Family) -> None:
    model = zoo.model(family.name)
    with ground(model, case.methods):
        logits, tokens = generate(model, family.batch())
        for i, row in enumerate(family.rows):
            alone, own = generate(model, family.batch([row]))
            assert close(alone[:, 0], logits[:, i])
            assert torch.equal(own[0], tokens[i])


@every_case
def test_left_padding_is_invisible(case: Case, family: zoo.Family) -> None:
    model = zoo.model(family.name)
    with ground(model, case.methods):
        logits, _ = generate(model, family.batch())
        padded, _ = generate(model, family.batch(pad=7))
    assert close(padded, logits)


@every_case
def test_some_token_can_always_be_chosen(case: Case, family: zoo.Family) -> None:
    with ground(zoo.model(family.name), case.methods):
        logits, _ = generate(zoo.model(family.name), family.batch())
    assert not bool(logits.isnan().any())
    assert bool(torch.isfinite(logits).any(-1).all())


@every_case
def test_a_second_generation_starts_afresh(case: Case) -> None:
    """Nothing of one generation shows in the next one of the same session, whatever its size."""
    family, model = zoo.family("llava"), zoo.model("llava")
    with ground(model, case.methods):
        first, _ = generate(model, family.batch())
        generate(model, family.batch(family.rows[:1]))
        again, _ = generate(model, family.batch())
    assert torch.equal(first, again)


@every_case
def test_a_neutral_companion_changes_nothing(case: Case) -> None:
    family, model = zoo.family("llava"), zoo.model("llava")
    with ground(model, case.methods):
        expected, _ = generate(model, family.batch())
    with ground(model, [*NEUTRAL, *case.methods]):
        logits, _ = generate(model, family.batch())
    assert torch.equal(logits, expected)
