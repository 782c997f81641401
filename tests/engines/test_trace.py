"""What a trace holds of a second stream, against numbers computed from the streams themselves."""

from __future__ import annotations

import pytest
import torch

from grounddecode import PAINT, AvisC, LocoRE, Trace, ground
from tests import zoo
from tests.engines.test_families import SecondStreamAlone, generate

STEPS = 4


@pytest.mark.parametrize("method", [AvisC(alpha=1.0, lamb=50.0), PAINT(layers=(0, 0), gamma=1.5)], ids=repr)
def test_contrast_is_how_far_the_log_probabilities_of_the_streams_are_apart(method) -> None:
    """With every image token hidden from it, the second stream can be run alone; the first step has read no answer."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch([*zoo.ROWS[:2], (1, 5, 6, 7, 8)])
    scheme = "mask" if method.name == "paint" else "zeros"
    plain, _ = generate(model, inputs, max_new_tokens=1)
    with ground(model, SecondStreamAlone(alpha=1.0, scheme=scheme)):
        alone, _ = generate(model, inputs, max_new_tokens=1)
    trace = Trace()
    with ground(model, [LocoRE(beta=0.0), method], trace=trace):
        logits, _ = generate(model, inputs, max_new_tokens=STEPS)
    events = list(trace.select("contrast", method.name))
    assert [event.step for event in events] == list(range(STEPS))
    kept = logits[0].isfinite()
    apart = (plain[0].log_softmax(-1) - alone[0].log_softmax(-1)).abs()
    for row in range(2):
        assert float(events[0].value[row]) == pytest.approx(float(apart[row][kept[row]].mean()), rel=1e-4)
    assert bool(events[0].value[2].isnan())  # the row without an image has no contrast
    assert trace.summary()[f"{method.name}.contrast"] > 0


def test_a_row_whose_answer_has_ended_says_nothing() -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    trace = Trace()
    with ground(model, AvisC(alpha=1.0)):
        _, tokens = generate(model, inputs, max_new_tokens=STEPS)
    model.generation_config.eos_token_id = int(tokens[0, 0])
    with ground(model, AvisC(alpha=1.0), trace=trace):
        generate(model, inputs, max_new_tokens=STEPS)
    ended = [event.value.isnan().tolist() for event in trace.select("contrast")]
    assert not ended[0][0]
    assert all(step[0] for step in ended[1:])
    assert not all(step[1] and step[2] for step in ended[1:])


def test_nothing_is_recorded_of_a_prompt_without_an_image() -> None:
    trace = Trace()
    with ground(zoo.model("llava"), AvisC(), trace=trace):
        generate(zoo.model("llava"), {"input_ids": torch.tensor([[1, 5, 6]])}, max_new_tokens=2)
    assert trace.events == []
