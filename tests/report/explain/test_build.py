"""Accounts of real models with tiles and without: heat maps against the attention of transformers' own eager kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from grounddecode import SGRS, VAR, AvisC, LocoRE, Trace, ground
from grounddecode.report.explain.build import Answer, told
from grounddecode.report.explain.watch import TOP, WANT
from grounddecode.saliency import record_saliency
from tests import zoo

STEPS = 4
SIZE = (64, 32)
TILES = {"llava": 1, "llava_next": 2, "qwen2_5_vl": 1, "idefics3": 1}


def spelt() -> Any:
    """A tokenizer whose token 17 is the word `w17`."""
    return SimpleNamespace(decode=lambda ids, **_: "".join(f" w{i}" for i in ids))


def answer_of(name: str, methods: list[Any], inputs: dict[str, torch.Tensor] | None = None) -> tuple[Answer, Any]:
    family, model = zoo.family(name), zoo.model(name)
    inputs = family.batch([zoo.ROWS[0]]) if inputs is None else inputs
    trace, plain = Trace(want=WANT, top=TOP), Trace(want={"candidates"}, top=TOP)
    with ground(model, methods, trace=trace):
        ids = model.generate(**inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False)
    tokens = ids[:, inputs["input_ids"].shape[1] :]
    record = record_saliency(model, inputs, answer=tokens, sizes=[SIZE] * 2, trace=plain)
    pictures = len([span for span in record.layout.spans if span.row == 0])
    given = (trace.steps(), plain.steps() if methods else None, record, "", spelt(), [SIZE] * pictures, None)
    return Answer("x", *given), ids


def eager_row(name: str, inputs: dict[str, torch.Tensor], ids: torch.Tensor, n: int) -> torch.Tensor:
    """(T,) attention of the query that predicts token n, averaged over layers and heads, by transformers itself."""
    family, model = zoo.family(name), zoo.model(name)
    prompt = inputs["input_ids"].shape[1]
    grown = family.extended(inputs, ids[:, prompt : prompt + n])
    model.set_attn_implementation("eager")
    try:
        found = model(**grown, output_attentions=True, use_cache=False).attentions
    finally:
        model.set_attn_implementation("sdpa")
    return torch.stack([layer[0, :, -1].mean(0) for layer in found]).mean(0).detach()


@pytest.mark.parametrize("name", TILES)
def test_heat_maps_are_the_attention_at_its_places(name: str) -> None:
    inputs = zoo.family(name).batch([zoo.ROWS[0]])
    answer, ids = answer_of(name, [], inputs)
    span = answer.spans[0]
    for n, seen in enumerate(told(answer).words):
        row = eager_row(name, inputs, ids, n)
        heat = seen.maps["attention"][0]
        assert heat is not None
        assert heat.total == pytest.approx(float(row[list(span.positions)].sum()), rel=1e-3)
        high, wide = heat.levels.shape
        assert wide / high == pytest.approx(SIZE[0] / SIZE[1], rel=0.1)
        expected = np.nan_to_num(span.heatmap(row[list(span.positions)].tolist(), (wide, high)))
        np.testing.assert_allclose(heat.levels, expected, rtol=1e-2, atol=1e-6)
        assert len(span.tiles) == TILES[name]


def test_heads_and_shares_are_the_trace_and_the_record() -> None:
    answer, _ = answer_of("llava", [])
    for n, seen in enumerate(told(answer).words):
        mass = answer.steps[n].head_mass
        assert seen.heads.tolist() == [mass[layer][0].tolist() for layer in sorted(mass)]
        assert sum(seen.shares.values()) == pytest.approx(1, abs=1e-5)
        assert seen.grounding == pytest.approx(seen.shares["image 1"], abs=1e-5)
        assert seen.maps["saliency"][0].total == pytest.approx(seen.grounding, abs=1e-5)


def test_candidates_go_from_the_plain_model_to_the_last_method() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch([zoo.ROWS[0]])
    answer, ids = answer_of("llava", [AvisC(alpha=1.0, beta=0.9)], inputs)
    choice = told(answer).words[0].choice
    assert choice.stages == ("plain model", "avc.second", "avc")
    plain = model(**inputs).logits[0, -1].softmax(-1).detach()
    first = choice.candidates[0]
    token = int(ids[0, inputs["input_ids"].shape[1]])
    assert first.taken
    assert first.text.strip() == f"w{token}"
    known = {int(one.text.strip()[1:]): one.chances[0] for one in choice.candidates if one.chances[0] is not None}
    assert len(known) > 3
    assert list(known.values()) == pytest.approx([float(plain[token]) for token in known], rel=1e-3)
    ends = [one.chances[-1] for one in choice.candidates]
    assert any(chance == 0.0 for chance in ends if chance is not None)  # the cut
    assert sum(one.taken for one in choice.candidates) == 1


def test_who_turned_a_candidate_down_is_named() -> None:
    answer, _ = answer_of("llava", [LocoRE(beta=0.5), SGRS(alpha=0.99)])
    remarks = [remark for seen in told(answer).words for one in seen.choice.candidates for remark in one.remarks]
    assert any(remark.startswith("turned down by sgrs (score 0.") for remark in remarks)
    assert all("sgrs" not in seen.choice.stages for seen in told(answer).words)


def test_kept_tokens_and_sinks_are_drawn_where_they_lie() -> None:
    answer, _ = answer_of("llava", [AvisC(alpha=1.0, lamb=0.0)])
    (kept,) = told(answer).marked
    assert kept.what == "kept by avc, which contrasts with a stream that sees only the blind image tokens"
    flags = answer.steps[0].kept["avc"][0]
    places = dict(zip(answer.spans[0].positions, answer.spans[0].places(SIZE), strict=True))
    assert kept.places == (tuple(places[at] for at in places if bool(flags[at])),)
    assert (kept.count, kept.of) == (int(flags.sum()), len(places))
    answer, _ = answer_of("llava", [VAR(sink_dims=(0, 1, 2), tau=1.5)])
    (sinks,) = told(answer).marked
    flagged = torch.stack([one[0] for one in answer.steps[0].sinks.values()]).any(0)
    assert sinks.count == sum(bool(flagged[at]) for at in places) > 0


def test_where_two_answers_part() -> None:
    one, _ = answer_of("llava", [])
    other, _ = answer_of("llava", [AvisC(alpha=1.0, beta=0.0)])
    mine, theirs = one.tokens, other.tokens
    at = next((n for n, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1]), None)
    assert at is not None
    assert told(other, one).differs == at == told(one, other).differs
    assert told(one, one).differs is None
    assert told(one).differs is None
