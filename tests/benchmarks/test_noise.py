"""The study of a model trained without noised pictures: what it counts, what its words rest on, what is committed."""

from __future__ import annotations

import json

import pytest

from benchmarks.studies.lab_table import RESULTS
from benchmarks.studies.noise import __main__ as study
from benchmarks.studies.noise import page as pages
from grounddecode.evaluate.intervals import differences


def caption(method: str, image: int, response: str) -> dict[str, object]:
    return {"benchmark": "chair", "method": method, "image_id": image, "response": response, "truth": ["dog"]}


def asked(method: str, image: int, response: str, label: str) -> dict[str, object]:
    return {"benchmark": "pope", "method": method, "image_id": image, "response": response, "label": label}


def test_captions_count_inventions_and_questions_right_answers():
    assert study.parts(caption("vcd", 1, "A dog beside a cat and a kite.")) == (2.0, 3.0)
    assert study.seen(caption("vcd", 1, "A dog beside a dog and a kite.")) == (1.0, 1.0)
    assert study.parts(asked("vcd", 1, "Yes.", "yes")) == (1.0, 1.0)
    assert study.parts(asked("vcd", 1, "Yes.", "no")) == (0.0, 1.0)


def test_the_gain_is_of_a_plan_over_greedy_on_the_same_pictures():
    # greedy 2 of 4 invented, vcd 1 of 4 on one model; greedy 2 of 4, vcd 0 of 3 on the other: -1/4 less -1/2.
    greedy = [caption("greedy", 1, "A dog and a cat."), caption("greedy", 2, "A dog and a kite.")]
    one = [*greedy, caption("vcd", 1, "A dog and a cat."), caption("vcd", 2, "A dog and a dog.")]
    other = [*greedy, caption("vcd", 1, "A dog."), caption("vcd", 2, "A dog and a dog."), caption("m3id", 1, "A cat.")]
    found = differences(study.arms(one, "vcd"), study.arms(other, "vcd"), study.gain)["gain"][0]
    assert found == pytest.approx(-1 / 4 + 1 / 2)


def test_a_model_that_saw_noise_is_refused(tmp_path):
    for recipe in ({"noised": 0.1}, {}):
        (tmp_path / "training.json").write_text(json.dumps({"recipe": recipe}))
        with pytest.raises(SystemExit, match="was trained with noised pictures"):
            study.trained(tmp_path)


def told(without: list[float], shipped: list[float], apart: list[float]) -> dict:
    def row(number):
        return {"methods": {"vcd": {"chair": {"chair_i": {"vs_greedy": number}}}}}

    return {
        "checkpoints": {pages.WITHOUT: row(without), pages.SHIPPED: row(shipped)},
        "apart": {"vcd": {"chair_i": apart}},
    }


@pytest.mark.parametrize(
    ("without", "apart", "words"),
    [
        ([-0.04, -0.06, -0.02], [0.04, 0.01, 0.07], ("**better than", "50% of it", "less than on seed0")),
        ([-0.07, -0.09, -0.05], [0.01, -0.01, 0.03], ("**better than", "88% of it", "not told apart from what")),
        ([-0.12, -0.14, -0.1], [-0.04, -0.07, -0.01], ("**better than", "150% of it", "more than on seed0")),
        ([-0.01, -0.03, 0.01], [0.07, 0.04, 0.1], ("**not told apart from greedy", "less than on seed0")),
        ([0.03, 0.01, 0.05], [0.11, 0.08, 0.14], ("**worse than greedy", "less than on seed0")),
    ],
)
def test_the_words_follow_the_intervals(without, apart, words):
    said = pages.finding(told(without, [-0.08, -0.1, -0.06], apart), "vcd", "chair_i")
    assert all(word in said for word in words)
    assert ("% of it" in said) == ("**better than" in said)


def test_the_committed_page_says_what_the_committed_numbers_say():
    found = json.loads((RESULTS[1] / "noise.json").read_text())
    assert (RESULTS[1] / "noise.md").read_text() == pages.page(found)
    assert found["training"]["recipe"]["noised"] == 0
    assert set(found["apart"]) == set(study.read(study.RECIPE).methods[1:])
    for name in (pages.SHIPPED, pages.WITHOUT):
        assert found["checkpoints"][name]["n_failed"] == 0
    for spec, apart in found["apart"].items():
        for measure, number in apart.items():
            gains = [pages.gain_of(found, name, spec, measure)[0] for name in (pages.WITHOUT, pages.SHIPPED)]
            assert number[0] == pytest.approx(gains[0] - gains[1], abs=2e-4)
