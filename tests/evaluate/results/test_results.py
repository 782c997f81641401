"""Numbers and costs out of records, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.benchmarks.table import measure_of
from grounddecode.evaluate.intervals import point
from grounddecode.evaluate.results.costs import cost
from grounddecode.evaluate.results.results import results
from grounddecode.evaluate.results.results import score as scored
from tests.evaluate.results.records import caption, question


@pytest.mark.parametrize("rule", ["official", "llava", "opera", "vcd", "lmms-eval"])
def test_the_counts_give_the_scorers_numbers(rule: str) -> None:
    rng = np.random.default_rng(1)
    words = ["Yes.", "No.", "yes", "no", "There isn't one.", "Nothing", "Yes. But no."]
    records = [question(at, words[rng.integers(7)], ["yes", "no"][rng.integers(2)]) for at in range(120)]
    measure = measure_of("pope", "random")
    found = scored(measure, records, Scoring(pope_rule=rule))
    ratios = point(found.counts(), measure.ratios)
    for key in measure.directions:
        assert ratios[key] == pytest.approx(found.numbers[key], abs=1e-12), key


def test_the_counts_give_chairs_numbers() -> None:
    records = [
        caption(1, "A dog and a dog and a cat. A red bus.", ["dog", "person"]),
        caption(2, "A man on a bench near a bench near a bench near a car.", ["person", "bench", "cup"]),
        caption(3, "Nothing to see.", ["cup"]),
    ]
    measure = measure_of("chair", "")
    found = scored(measure, records, Scoring())
    ratios = point(found.counts(), measure.ratios)
    for key in measure.directions:
        assert ratios[key] == pytest.approx(found.numbers[key], abs=1e-12), key
    # Mentions: dog dog cat / person bench bench bench car / none ("bus" does not count in this flavour).
    assert ratios["chair_i"] == 2 / 8
    assert ratios["chair_s"] == 2 / 3
    assert ratios["chair_i_unique"] == 2 / 5
    assert ratios["recall"] == 3 / 6
    assert ratios["words"] == (11 + 14 + 3) / 3


def test_failed_samples_are_in_no_number() -> None:
    records = [question(at, "Yes.", "yes") for at in range(4)]
    failed = question(4, "", "no") | {"status": "failed", "response": None}
    found = results([*records, failed], Scoring(resamples=10))["greedy"]["pope"]["random"]
    assert (found["n"], found["n_failed"], found["accuracy"]) == (4, 1, 1.0)
    only = results([failed], Scoring(resamples=10))["greedy"]["pope"]["random"]
    assert (only["n"], only["n_failed"], only["accuracy"]) == (0, 1, None)


def test_cost_counts_what_was_generated_and_compares_the_same_samples() -> None:
    greedy = [question(0, "Yes.", "yes"), question(1, "Yes.", "yes"), question(2, "", "no", same_as="pope-random/1")]
    ours = [
        question(0, "Yes.", "yes", seconds=1.0, n_tokens=2, peak_memory_mib=70.0),
        question(7, "", "no", seconds=9.0),
    ]
    found = cost(ours, greedy)
    assert found["seconds"] == 10.0
    assert found["n_tokens"] == 4
    assert found["tokens_per_second"] == 0.4
    assert found["tokens_per_second_ratio"] == 0.5  # on question 0 alone: 2 tokens a second against 4
    assert found["peak_memory_mib"] == 70.0
    assert cost(greedy, greedy)["seconds"] == 1.0
    assert cost([], greedy)["tokens_per_second"] is None


def test_what_an_engine_does_once_is_left_out_of_the_speed_ratio() -> None:
    # question() answers with 2 tokens in half a second. Greedy's first batch took 10 s, ours 1 s.
    greedy = [question(0, "Yes.", "yes", seconds=10.0, warming_up=True), question(1, "Yes.", "yes")]
    ours = [question(0, "Yes.", "yes", seconds=1.0, warming_up=True), question(1, "Yes.", "yes", seconds=1.0)]
    assert cost(ours, greedy)["tokens_per_second_ratio"] == 0.5
    assert cost(ours[:1], greedy[:1])["tokens_per_second_ratio"] == 10.0  # there is nothing else
    assert cost(ours, greedy)["seconds"] == 2.0
