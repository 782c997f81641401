"""What a trace holds of a second stream, against numbers computed from the streams themselves."""

from __future__ import annotations

import pytest
import torch

from grounddecode import PAINT, SGRS, VAR, AvisC, LocoRE, Trace, ground
from grounddecode.engines.hf.attention import attend
from tests import zoo
from tests.engines.hf.test_families import SecondStreamAlone, generate

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


@pytest.mark.parametrize("told", ["model", "call"])
@pytest.mark.parametrize("name", ["llava", "blip2"])
def test_a_row_whose_answer_has_ended_says_nothing(name: str, told: str) -> None:
    model, inputs = zoo.fresh(name), zoo.family(name).batch()
    trace = Trace()
    with ground(model, AvisC(alpha=1.0)):
        _, tokens = generate(model, inputs, max_new_tokens=STEPS)
    ends = {"eos_token_id": int(tokens[0, 0]), "pad_token_id": 3}
    if told == "model":
        zoo.at(model, zoo.family(name).runner).generation_config.update(**ends)
    with ground(model, AvisC(alpha=1.0), trace=trace):
        generate(model, inputs, max_new_tokens=STEPS, **(ends if told == "call" else {}))
    ended = [event.value.isnan().tolist() for event in trace.select("contrast")]
    assert not ended[0][0]
    assert all(step[0] for step in ended[1:])
    assert not all(step[1] and step[2] for step in ended[1:])


def test_nothing_is_recorded_of_a_prompt_without_an_image() -> None:
    trace = Trace()
    with ground(zoo.model("llava"), AvisC(), trace=trace):
        generate(zoo.model("llava"), {"input_ids": torch.tensor([[1, 5, 6]])}, max_new_tokens=2)
    assert trace.events == []


def ranked(logits: torch.Tensor, top: int) -> list[list[int]]:
    return logits.topk(top, dim=-1).indices.tolist()


def test_candidates_before_and_after_are_those_of_the_logits() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    method = AvisC(alpha=1.0, beta=0.0)
    plain, _ = generate(model, inputs, max_new_tokens=1)
    trace = Trace(want={"candidates", "kept"}, top=4)
    with ground(model, method, trace=trace):
        logits, _ = generate(model, inputs, max_new_tokens=STEPS)
    steps = trace.steps()
    assert [step.step for step in steps] == list(range(STEPS))
    assert list(steps[0].candidates) == ["model", "avc.second", "avc"]
    assert steps[0].candidates["model"].tolist() == ranked(plain[0], 4)
    for number, step in enumerate(steps):
        assert step.candidates["avc"].tolist() == ranked(logits[number], 4)
        assert step.log_probs["avc"].shape == step.candidates["avc"].shape
        assert ("avc" in step.moved) is (not step.candidates["model"][:, 0].equal(step.candidates["avc"][:, 0]))
    second = 2 * plain[0] - logits[0]  # of mixed = 2 main - second
    assert steps[0].candidates["avc.second"].tolist() == ranked(second, 4)


def test_kept_tokens_are_image_tokens_of_the_share_that_is_traced() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    trace = Trace(want={"kept"})
    with ground(model, AvisC(alpha=1.0, lamb=0.0), trace=trace):
        generate(model, inputs, max_new_tokens=2)
    first, second = trace.steps()
    kept, image = first.kept["avc"], inputs["input_ids"] == model.config.image_token_id
    assert kept.any()
    assert not (kept & ~image).any()
    assert (kept.sum(1) / image.sum(1).clamp(min=1)).tolist() == pytest.approx(first.told["avc.kept_share"].tolist())
    assert not second.kept
    assert not first.candidates
    assert set(trace.summary()) == {"avc.contrast", "avc.kept_share"}


@pytest.mark.parametrize(
    "methods", [[LocoRE(beta=0.5)], [SGRS(alpha=0.9)], [LocoRE(beta=0.5), SGRS(alpha=0.9)]], ids=repr
)
def test_methods_that_move_no_logits_and_such_that_choose(methods) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    trace = Trace(want={"candidates"}, top=3)
    with ground(model, methods, trace=trace):
        logits, _ = generate(model, inputs, max_new_tokens=STEPS)
    steps, judges = trace.steps(), [method.name for method in methods if method.name == "sgrs"]
    assert [list(step.candidates) for step in steps] == [["model", *judges]] * STEPS
    last = [*judges, "model"][0]
    assert [step.candidates[last][:, 0].tolist() for step in steps] == logits.argmax(-1).tolist()


def test_nothing_large_is_recorded_or_computed_unless_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    sorted_logits: list[int] = []
    real = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda *args, **kwargs: sorted_logits.append(1) or real(*args, **kwargs))
    monkeypatch.setattr(attend, "_look", lambda *_: pytest.fail("nobody asked for the attention to the image"))
    for trace in (None, Trace()):
        with ground(model, AvisC(alpha=1.0), trace=trace):
            generate(model, inputs, max_new_tokens=2)
        assert not sorted_logits
    assert {event.what for event in trace.events} == {"contrast", "kept_share"}
    with ground(model, AvisC(alpha=1.0), trace=Trace(want={"candidates"})):
        generate(model, inputs, max_new_tokens=2)
    assert len(sorted_logits) == 2 * 3  # model, second stream and contrast, in each step


def test_what_a_trace_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="asked for attention, it has"):
        Trace(want={"attention"})


@pytest.mark.parametrize("methods", [[], [AvisC(alpha=1.0)], [SGRS(alpha=0.9)]], ids=repr)
def test_image_mass_is_that_of_the_attention_weights(methods) -> None:
    """Against transformers' own eager weights over the finished answer."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    trace = Trace(want={"image_mass", "head_mass", "image_attention", "tokens"})
    with ground(model, methods, trace=trace):
        output = model.generate(**inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False)
    steps, prompt = trace.steps(), inputs["input_ids"].shape[1]
    assert [step.tokens.tolist() for step in steps] == output[:, prompt - 1 : -1].T.tolist()
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, STEPS), value=1)
    model.set_attn_implementation("eager")
    try:
        whole = model(**inputs | {"input_ids": output, "attention_mask": mask}, output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation("sdpa")
    image = output == model.config.image_token_id
    for step in steps:
        assert sorted(step.image_mass) == list(range(len(whole.attentions)))
        for layer, weights in enumerate(whole.attentions):
            mass = (weights[:, :, prompt - 1 + step.step].mean(1) * image).sum(-1)
            torch.testing.assert_close(step.image_mass[layer], mass, rtol=1e-3, atol=1e-5)
            row = weights[:, :, prompt - 1 + step.step] * image[:, None]
            torch.testing.assert_close(step.head_mass[layer], row.sum(-1), rtol=1e-3, atol=1e-5)
            seen = step.image_attention[layer]
            torch.testing.assert_close(seen, row.mean(1)[:, : seen.shape[1]], rtol=1e-3, atol=1e-5)
            assert seen.shape[1] == prompt + step.step


def test_what_a_method_turned_down_is_told() -> None:
    """Against the formula: of the candidates by probability, those before the one taken, if their saliency is low."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    method, trace = SGRS(alpha=0.99, top_k=4, max_resample=3), Trace(want={"candidates"}, top=4)
    with ground(model, method, trace=trace):
        _, tokens = generate(model, inputs, max_new_tokens=8)
    down = 0
    for step in trace.steps():
        judged, turned_down = step.judged["sgrs"], step.turned_down["sgrs"]
        assert judged.tolist() == step.candidates["model"].tolist()
        assert step.judged_by["sgrs"].shape == (3, 4)
        for row in range(3):
            if int(judged[row].max()) >= zoo.FIRST_SPECIAL:  # `generate` suppresses those, whoever chose them
                continue
            taken = judged[row].tolist().index(int(tokens[row, step.step]))
            fallback = bool(step.told["sgrs.fallback"][row])
            wanted = [0, 1, 2] if fallback else list(range(taken))
            assert turned_down[row].nonzero()[:, 0].tolist() == wanted
            down += len(wanted)
    assert down > 0


def test_sinks_are_those_that_the_method_flagged() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    trace = Trace(want={"sinks"})
    method = VAR(sink_dims=(0, 1, 2), tau=1.5)
    with ground(model, method, trace=trace):
        generate(model, inputs, max_new_tokens=2)
    first, second = trace.steps()
    hidden = model(**inputs, output_hidden_states=True).hidden_states
    assert first.sinks[0].any()
    assert first.sinks[0].tolist() == method.flag_tokens(hidden[0], 0).tolist()  # nothing is edited before layer 0
    assert second.sinks[0].shape[1] == first.sinks[0].shape[1] + 1
