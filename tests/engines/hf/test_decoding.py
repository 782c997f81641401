"""Every way to pick tokens: sampling, several sequences, beams, streaming, drafts; methods equal the dense oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TextStreamer
from transformers.generation.streamers import BaseStreamer

from grounddecode import ground
from tests import zoo
from tests.engines.hf.test_families import TOLERANCE, difference, generate
from tests.engines.hf.test_generate import MAIN, STEPS, cases_on, every_case, oracle, some_cases
from tests.oracle.cases import CASES, EVERY_CASE, Case
from tests.oracle.whole import Oracle


def teacher_forced(judge: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The oracle's logits (steps, rows, vocabulary) along given tokens."""
    found, keep = [], None
    for step in range(tokens.shape[1]):
        logits, keep = judge.logits(inputs, tokens[:, :step], keep)
        found.append(logits)
    return torch.stack(found)


def allowed(logits: Tensor) -> Tensor:
    """Logits without the tokens that the zoo never generates."""
    return torch.cat(
        [logits[..., : zoo.FIRST_SPECIAL], torch.full_like(logits[..., zoo.FIRST_SPECIAL :], -torch.inf)], -1
    )


@pytest.mark.parametrize("name", ["llava", "gemma3"])
@pytest.mark.parametrize("wanted", ["locore", "locore-generated-2-layers", "var", "heads"])
def test_long_answers(name: str, wanted: str) -> None:
    """Longer than anything that is worked out or laid out ahead of a step."""
    (case,) = (case for case in CASES if case.name == wanted)
    model, family, steps = zoo.model(name), zoo.family(name), 280 if wanted == "locore" else 40
    inputs = family.batch()
    with ground(model, case.methods):
        logits, tokens = generate(model, inputs, do_sample=True, top_k=0, max_new_tokens=steps)
    judge = oracle(name, case)
    for step in (*range(14, 36), *range(254, min(steps, 260)), steps - 1):
        expected, _ = judge.logits(inputs, tokens[:, :step], None)
        assert difference(logits[step], expected) <= TOLERANCE


@every_case
def test_sampling_draws_from_the_oracles_distribution(case: Case) -> None:
    """Same seed, same tokens: the methods use no random numbers of the caller."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    torch.manual_seed(5)
    with ground(model, case.methods):
        logits, tokens = generate(model, inputs, do_sample=True, top_k=0)
    expected = teacher_forced(oracle("llava", case), inputs, tokens)
    assert difference(logits, expected) <= TOLERANCE
    torch.manual_seed(5)
    for step, given in enumerate(allowed(expected).softmax(-1)):
        assert torch.equal(torch.multinomial(given, 1)[:, 0], tokens[:, step])


def rows_for_copies(name: str) -> tuple[zoo.Row, ...]:
    """Prompts for several sequences each: transformers 5.16 mixes up the pictures of rows that hold two."""
    model, family = zoo.model(name), zoo.family(name)
    first, _ = generate(model, family.batch(), max_new_tokens=1)
    copied, _ = generate(model, family.batch(), max_new_tokens=1, do_sample=True, num_return_sequences=2)
    return family.rows if difference(copied[:, ::2], first) <= TOLERANCE else zoo.SINGLE


@every_case
def test_several_sequences_a_prompt(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch(rows_for_copies("llava"))
    torch.manual_seed(6)
    with ground(model, case.methods):
        logits, tokens = generate(model, inputs, do_sample=True, num_return_sequences=3, max_new_tokens=STEPS)
    assert len({tuple(row) for row in tokens.tolist()}) > 3
    for copy in range(3):
        expected = teacher_forced(oracle("llava", case), inputs, tokens[copy::3])
        assert difference(logits[:, copy::3], expected) <= TOLERANCE


def beam_search(judge: Oracle, inputs: dict[str, Tensor], beams: int, steps: int) -> tuple[Tensor, Tensor]:
    """Plain beam search over the oracle: tokens (rows, beams, steps), best first, and their summed log-probability."""
    rows = len(inputs["input_ids"])
    tokens, scores, keep = torch.zeros(rows, 1, 0, dtype=torch.long), torch.zeros(rows, 1), None
    for _ in range(steps):
        found = []
        for beam in range(tokens.shape[1]):
            logits, keep = judge.logits(inputs, tokens[:, beam], keep)
            found.append(allowed(logits.log_softmax(-1)) + scores[:, beam : beam + 1])
        scores, best = torch.cat(found, dim=1).topk(beams)
        parent, word = best // zoo.VOCABULARY, best % zoo.VOCABULARY
        tokens = torch.cat(
            [tokens.gather(1, parent[..., None].expand(-1, -1, tokens.shape[2])), word[..., None]], dim=2
        )
    return tokens, scores


@cases_on("llava", "gemma3")
def test_beams_equal_a_beam_search_over_the_oracle(name: str, case: Case) -> None:
    model, inputs = zoo.model(name), zoo.family(name).batch(rows_for_copies(name))
    options = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0, "max_new_tokens": STEPS}
    with ground(model, case.methods):
        output = model.generate(**inputs, **options, do_sample=False, return_dict_in_generate=True, output_scores=True)
    expected, scores = beam_search(oracle(name, case), inputs, 3, STEPS)
    assert torch.equal(output.sequences[:, -STEPS:].view(3, 2, STEPS), expected[:, :2])
    assert torch.allclose(output.sequences_scores.view(3, 2), scores[:, :2], atol=5e-5)


class _Collector(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


@some_cases
def test_streaming(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch(zoo.ROWS[:1])
    collector = _Collector()
    with ground(model, case.methods):
        sequences = model.generate(**inputs, do_sample=False, max_new_tokens=STEPS, streamer=collector)
    assert collector.ended
    assert collector.tokens == sequences[0].tolist()


class _Words:
    """A tokenizer for TextStreamer: token n is the word wn."""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(f"w{int(token)} " for token in ids)


@some_cases
def test_text_streamer(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch(zoo.ROWS[:1])
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=STEPS)
    with ground(model, case.methods):
        expected = model.generate(**inputs, do_sample=False, max_new_tokens=STEPS)
        streamer = TextStreamer(_Words(), skip_prompt=True)
        model.generate(**inputs, do_sample=False, max_new_tokens=STEPS, streamer=streamer)
    assert not torch.equal(expected, plain)
    assert capsys.readouterr().out.split() == [f"w{token}" for token in expected[0, -STEPS:].tolist()]


LOOKUP = {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}


def _repeating() -> dict[str, Tensor]:
    """A prompt whose tokens recur, so that drafts are made."""
    return zoo.family("llava").batch([(1, 5, -1, *range(3, 60), *range(3, 60))])


one_stream = pytest.mark.parametrize("case", [c for c in CASES if not c.refuses_drafts], ids=lambda c: c.name)


@one_stream
def test_prompt_lookup_equals_greedy(case: Case) -> None:
    model, inputs = zoo.model("llava"), _repeating()
    drafts: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, __, kwargs: drafts.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        with ground(model, case.methods):
            expected = model.generate(**inputs, do_sample=False, max_new_tokens=16)
            drafts.clear()
            looked_up = model.generate(**inputs, do_sample=False, max_new_tokens=16, **LOOKUP)
    finally:
        handle.remove()
    assert torch.equal(looked_up, expected)
    assert max(drafts[1:]) > 1  # several tokens were verified at once


@one_stream
def test_assisted_decoding_equals_greedy(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch(zoo.ROWS[:1])
    helper = zoo.fresh("llava")
    with ground(model, case.methods):
        expected = model.generate(**inputs, do_sample=False, max_new_tokens=12)
        assisted = model.generate(**inputs, do_sample=False, max_new_tokens=12, assistant_model=helper)
    assert torch.equal(assisted, expected)


@pytest.mark.parametrize("case", [c for c in MAIN if c.refuses_drafts], ids=lambda c: c.name)
def test_who_cannot_verify_drafts_refuses_them(case: Case) -> None:
    with ground(zoo.model("llava"), case.methods), pytest.raises(ValueError, match="assisted decoding off"):
        zoo.model("llava").generate(**_repeating(), do_sample=False, max_new_tokens=16, **LOOKUP)


@pytest.mark.parametrize("case", [c for c in EVERY_CASE if c.refuses_drafts or c.rejection], ids=lambda c: c.name)
def test_a_draft_that_is_read_with_the_prompt_is_refused_too(case: Case) -> None:
    """One draft, of one token, and none later: the token before it must not be the plain model's."""
    model = zoo.model("llava")
    inputs = zoo.family("llava").batch([(1, 70, 82, 76, -1, 7, 5, 56, 43, 5, 26, 82)])
    drafts: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, __, kwargs: drafts.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    options = {"do_sample": False, "max_new_tokens": 3, "prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 1}
    try:
        model.generate(**inputs, **options)
    finally:
        handle.remove()
    assert drafts[0] == inputs["input_ids"].shape[1] + 1
    with ground(model, case.methods), pytest.raises(ValueError, match="assisted decoding off"):
        model.generate(**inputs, **options)
