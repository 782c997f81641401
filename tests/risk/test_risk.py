"""The risk of each word, against the saliency record it comes from."""

from __future__ import annotations

import math

import pytest
import torch

from grounddecode import lab
from grounddecode.lab.world import scenes
from grounddecode.risk import known_risk, risk_of, word_risk
from grounddecode.saliency import record_saliency

PROMPT = "Describe this image in detail."


@pytest.fixture(scope="module")
def seen():
    model, processor = lab.load()
    processor.tokenizer.padding_side = "left"
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    drawn = scenes("evaluation", 12)
    inputs = processor(images=[s.image for s in drawn], text=[prompt] * 12, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=60, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    return model, processor, drawn, dict(inputs), tokens


def test_score_is_what_does_not_rest_on_the_picture(seen) -> None:
    model, processor, _, inputs, tokens = seen
    one = {name: value[:1] for name, value in inputs.items()}
    calibration = known_risk(model.config)
    risks = word_risk(model, processor, one, tokens[:1])
    record = record_saliency(model, one, layers=calibration.layers, answer=tokens[:1])
    spelt = processor.tokenizer.convert_ids_to_tokens(tokens[0].tolist())
    at = [n for n, token in enumerate(spelt) if token.isalpha()]  # the lab's tokens are words and signs
    assert [risk.word for risk in risks] == [spelt[n] for n in at]
    assert [risk.score for risk in risks] == pytest.approx([1 - float(record.grounding[0, n]) for n in at], abs=1e-6)
    named = [(risk, n) for risk, n in zip(risks, at, strict=True) if risk.object]
    assert named
    for risk, n in named:
        if risk.object == risk.word:  # names of one word
            odds = calibration.intercept + calibration.slope * (1 - float(record.grounding[0, n]))
            assert risk.probability == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-6)
    assert all(risk.probability is None for risk in risks if not risk.object)


def test_names_of_two_words_have_the_chance_of_the_first(seen) -> None:
    model, processor, _, inputs, _ = seen
    one = {name: value[:1] for name, value in inputs.items()}
    ids = processor.tokenizer("There is a traffic light.", add_special_tokens=False, return_tensors="pt").input_ids
    risks = {risk.word: risk for risk in word_risk(model, processor, one, ids)}
    first, second = risks["traffic"], risks["light"]
    assert first.object == second.object == "traffic light"
    assert first.probability == second.probability
    assert first.score != second.score


def test_invented_objects_are_riskier(seen) -> None:
    model, processor, drawn, inputs, tokens = seen
    record = record_saliency(model, inputs, layers=known_risk(model.config).layers, answer=tokens)
    there, invented = [], []
    for row, scene in enumerate(drawn):
        for risk in risk_of(record, processor.tokenizer, known_risk(model.config), row):
            if risk.object:
                (there if risk.object in scene.categories else invented).append(risk.probability)
    assert len(invented) > 3
    assert sum(invented) / len(invented) > 4 * sum(there) / len(there)


def test_several_answers_at_once_are_refused(seen) -> None:
    model, processor, _, inputs, tokens = seen
    with pytest.raises(ValueError, match="12 answers was asked for, give one"):
        word_risk(model, processor, inputs, tokens)
