"""`edit_hidden`: toy methods beside hooks on whole sequences without a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from grounddecode import AvisC, ground
from grounddecode.engines.openai.engine import OpenAIEngine
from grounddecode.engines.vllm.params import Settings, not_offered
from grounddecode.method import Method, Needs
from grounddecode.methods.choice.sgrs import SGRS
from grounddecode.reads import Reads
from grounddecode.view import StepView
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.engines.hf.hidden_toys import (
    FAMILIES,
    STEPS,
    Early,
    Turn,
    TurnBlock,
    close,
    every_toy,
    expected,
    generate,
    steered,
)
from tests.oracle import whole


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", [Turn(), TurnBlock(share=0.1)], ids=repr)
def test_it_equals_hooks_on_whole_sequences(name: str, method: Turn) -> None:
    """Left padding and a row with two pictures included: the zoo's batch has both."""
    inputs = zoo.family(name).batch()
    logits, tokens = generate(name, method)
    assert close(logits, expected(name, inputs, [method], tokens))
    assert not close(logits, generate(name, [])[0])


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_several_compose_in_list_order(name: str) -> None:
    inputs = zoo.family(name).batch()
    both = [Turn(layers=(1,)), _Half(layers=(1, 2))]
    logits, _ = generate(name, both)
    assert not close(logits, generate(name, both[::-1])[0])
    model, family = zoo.model(name), zoo.family(name)
    with steered(whole.Oracle(model, family).stack, [both[0]], torch.ones(3, dtype=torch.bool)):
        inner = _halved(whole.Oracle(model, family), inputs)
    assert close(logits[0], inner)


@dataclass(frozen=True, kw_only=True)
class _Half(Turn):
    name: ClassVar[str] = "half"

    def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
        return output.clamp(-0.2, 0.2)


def _halved(oracle: whole.Oracle, inputs: dict[str, Tensor]) -> Tensor:
    """Hooks registered later see what earlier ones left."""
    handles = []
    for layer in (1, 2):
        block = oracle.stack.layers[layer]
        leave = getattr(block, "post_feedforward_layernorm", block.mlp)
        handles.append(leave.register_forward_hook(lambda _, __, output: output.clamp(-0.2, 0.2)))
    try:
        return oracle.logits(inputs, torch.zeros(3, 0, dtype=torch.long))[0]
    finally:
        for handle in handles:
            handle.remove()


@every_toy
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_a_batch_equals_its_rows_alone_and_padding_is_invisible(name: str, methods: list[Method]) -> None:
    family = zoo.family(name)
    logits, tokens = generate(name, methods)
    for i, row in enumerate(family.rows):
        alone, own = generate(name, methods, family.batch([row]))
        assert close(alone[:, 0], logits[:, i])
        assert torch.equal(own[0], tokens[i])
    assert close(generate(name, methods, family.batch(pad=7))[0], logits)


@every_toy
def test_nothing_is_left(methods: list[Method]) -> None:
    model, before = zoo.model("llava"), footprint(zoo.model("llava"))
    plain, _ = generate("llava", [])
    generate("llava", methods)
    assert footprint(model) == before
    assert torch.equal(generate("llava", [])[0], plain)


@pytest.mark.parametrize("neutral", [Turn(share=0.0), TurnBlock(share=0.0), Early(share=0.0)], ids=repr)
def test_neutral_is_bit_identical(neutral: Method) -> None:
    assert torch.equal(generate("gemma3", neutral)[0], generate("gemma3", [])[0])


@pytest.mark.parametrize("method", [Turn(), TurnBlock(), Early()], ids=repr)
def test_rows_without_an_image_are_untouched(method: Method) -> None:
    mixed = zoo.family("llava").batch([(1, 5, 6, -1, 7, 8), (1, 5, 6, 7, 8, 9, 10)])
    logits, _ = generate("llava", method, mixed)
    plain, _ = generate("llava", [], mixed)
    assert torch.equal(logits[:, 1], plain[:, 1])
    assert not close(logits[:, 0], plain[:, 0])


def test_sampling_draws_from_what_was_edited() -> None:
    torch.manual_seed(3)
    logits, tokens = generate("llava", Turn(), do_sample=True)
    assert close(logits, expected("llava", zoo.family("llava").batch(), [Turn()], tokens))


def test_beams_equal_those_of_hooks() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    beams = {"num_beams": 3, "max_new_tokens": STEPS, "do_sample": False}
    with ground(model, Turn()):
        ours = model.generate(**inputs, **beams)
    with steered(whole.Oracle(model, zoo.family("llava")).stack, [Turn()], torch.ones(9, dtype=torch.bool)):
        theirs = model.generate(**inputs, **beams)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, model.generate(**inputs, **beams))


def test_the_second_stream_is_edited_for_every_token() -> None:
    """A method that pools over the tokens of a prompt must be given all of them, in the last layer too."""
    seen: list[tuple[int, int]] = []

    class Spy(Turn):
        def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
            seen.append((layer, output.shape[1]))
            assert given.shape[:2] == output.shape[:2] == (len(step.slots), output.shape[1])
            return output

    generate("llava", [Spy(), AvisC(alpha=1.0)], max_new_tokens=1)
    length = zoo.family("llava").batch()["input_ids"].shape[1]
    assert seen == [(1, length), (3, length)] * 2


def test_other_engines_refuse_in_one_sentence(fake: Any) -> None:
    for method in (Turn(), Early()):
        assert (
            not_offered([method], Settings(), 4)
            == f"{method.name} works on hidden states or pixels inside of the model: use engine hf"
        )
        server = OpenAIEngine(fake.url + "#m", send_methods=True)
        assert (
            server.refusal([method])
            == f"{method.name} works on hidden states or pixels inside of the model: use engine hf"
        )
        assert not server.offers & method.needs() & (Needs.HIDDEN_EDIT | Needs.HIDDEN_READ)
        server.close()
        plain = OpenAIEngine(fake.url + "#m")
        assert plain.refusal([method]) is not None
        plain.close()


def test_what_cannot_work_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"turn: layers is \(9,\) and holds none, this model has layers 0 to 3"):
        ground(zoo.model("llava"), Turn(layers=(9,)))
    with pytest.raises(ValueError, match="sgrs takes gradients through layers whose hidden states turn changes"):
        ground(zoo.model("llava"), [Turn(), SGRS(layers=(0, 2))])
    with (
        pytest.raises(ValueError, match=r"turn: layer 1 of Mllama.* has no feed-forward network whose output is added"),
        ground(zoo.model("mllama"), Turn()),
    ):
        pass
    with pytest.raises(ValueError, match="odd: site is 'norm', choose of"), ground(zoo.model("llava"), _Odd()):
        pass
    with pytest.raises(ValueError, match=r"far: reads behind layers \(7,\)"), ground(zoo.model("llava"), _Far()):
        pass


@dataclass(frozen=True, kw_only=True)
class _Odd(Turn):
    name: ClassVar[str] = "odd"
    site: ClassVar[Any] = "norm"


@dataclass(frozen=True, kw_only=True)
class _Far(Early):
    name: ClassVar[str] = "far"

    def reads(self, n_layers: int) -> Reads:
        return Reads(hidden=(7,))
