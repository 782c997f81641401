"""Controls and comparison tables, by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grounddecode.evaluate.benchmarks.chair import Chair
from grounddecode.evaluate.benchmarks.pope import Pope
from grounddecode.evaluate.benchmarks.rules import Scoring, scoring_of
from grounddecode.evaluate.benchmarks.table import measure_of
from grounddecode.evaluate.intervals import point
from grounddecode.evaluate.results.compare import compare, tables_of
from grounddecode.evaluate.results.controls import cut_to_words, length_matched, matched_lengths
from grounddecode.evaluate.results.costs import cost
from grounddecode.evaluate.results.results import results
from grounddecode.evaluate.results.results import score as scored
from grounddecode.evaluate.run.runner import Recipe, bench
from tests.evaluate.fake import FakeEngine, run, write_folder

# -- the length-matched control ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "target", "cut"),
    [
        ([5, 5, 5], 15, [5, 5, 5]),
        ([5, 5, 5], 99, [5, 5, 5]),
        ([5, 5, 5], 9, [3, 3, 3]),
        ([10, 2, 6], 12, [5, 2, 5]),
        ([10, 2, 6], 6, [2, 2, 2]),
        ([10, 2, 6], 13, [6, 2, 5]),
        ([4, 4, 4, 4], 10, [3, 2, 3, 2]),
        ([3, 1], 0, [0, 0]),
        ([], 0, []),
    ],
)
def test_the_longest_are_cut_first_and_the_sum_is_met(lengths: list[int], target: int, cut: list[int]) -> None:
    assert matched_lengths(lengths, target) == cut


def test_the_sum_is_met_for_any_lengths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(0, 30, size=int(rng.integers(1, 20))).tolist()
        target = int(rng.integers(0, sum(lengths) + 10))
        found = matched_lengths(lengths, target)
        assert sum(found) == min(target, sum(lengths))
        assert all(cut <= length for cut, length in zip(found, lengths, strict=True))
        top = max(found)
        assert all(cut == length or cut >= top - 1 for cut, length in zip(found, lengths, strict=True))


def test_captions_are_cut_between_words() -> None:
    assert cut_to_words("A dog  and a cat.", 3) == "A dog and"
    assert cut_to_words("A dog  and a cat.", 5) == "A dog  and a cat."  # untouched where nothing is cut
    assert length_matched(["a b c d", "a b"], ["x", "x y z"]) == ["a b", "a b"]
    assert length_matched(["a b c d", "a b"], ["x y z", "x y z w"]) == ["a b c d", "a b"]


# -- measures ----------------------------------------------------------------------------------------------------------


def caption(image: int, text: str, truth: Sequence[str], method: str = "greedy", **more: Any) -> dict[str, Any]:
    return {
        "sample_id": f"chair/{image}",
        "benchmark": "chair",
        "split": "",
        "image_id": image,
        "image": f"{image}.png",
        "prompt": "Describe.",
        "method": method,
        "response": text,
        "status": "ok",
        "truth": list(truth),
        "n_tokens": 10,
        "seconds": 1.0,
        **more,
    }


def question(number: int, said: str, label: str, method: str = "greedy", **more: Any) -> dict[str, Any]:
    return {
        "sample_id": f"pope-random/{number}",
        "benchmark": "pope",
        "split": "random",
        "image_id": number // 6,
        "image": f"{number // 6}.png",
        "prompt": "Is there?",
        "response": said,
        "status": "ok",
        "label": label,
        "method": method,
        "n_tokens": 2,
        "seconds": 0.5,
        **more,
    }


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


# -- the comparison ----------------------------------------------------------------------------------------------------

TRUTH = ["dog", "bench"]
LONG = "A dog on a bench and a cat and a car."
SHORT = "A dog on a bench"


def write_run(folder: Path, records: list[dict[str, Any]], methods: list[str], model: str = "m") -> Path:
    folder.mkdir()
    run = {
        "format": 1,
        "hash": "",
        "settings": {
            "model": model,
            "engine": "hf",
            "engine_options": {},
            "methods": sorted(methods),
            "benchmarks": ["chair", "pope"],
            "seed": 0,
            "batch_size": 8,
            "shard": None,
            "limit": None,
            "max_new_tokens": None,
            "data": "lab",
            "plans": {name: {"decoding": {}, "methods": []} for name in methods},
            "weights": None,
            "questions": "",
        },
        "data": "lab",
        "chair_flavour": "pattern",
        "engine": {},
        "n_samples": 1000,
        "sessions": [],
        "methods": methods,
        "parts": ["pope-random", "chair"],
        "scoring": {"pope_rule": "official", "chair_flavour": "pattern", "resamples": 200},
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def captions(text: str, method: str, images: range = range(30)) -> list[dict[str, Any]]:
    return [caption(image, text, TRUTH, method) for image in images]


def test_a_run_that_was_stopped_is_read_by_the_words_of_its_data() -> None:
    assert scoring_of({"data": "somewhere", "chair_flavour": "fixed"}) == Scoring(
        chair_flavour="fixed", data="somewhere"
    )
    last = {"pope_rule": "vcd", "chair_flavour": "pattern", "data": "there"}
    assert scoring_of({"scoring": last, "data": "here", "chair_flavour": "fixed"}) == Scoring("vcd", data="there")


def test_saying_less_is_no_gain(tmp_path: Path) -> None:
    # "short" is greedy without its invented tail: better than greedy, and no better than greedy cut to its length.
    run = write_run(tmp_path / "run", captions(LONG, "greedy") + captions(SHORT, "short"), ["greedy", "short"])
    (table,) = compare([run]).tables
    assert [row.label for row in table.rows] == ["greedy", "short", "greedy cut to short"]
    assert table.notes[-1] == "Not measured, though a comparison needs it: sample+cut."
    greedy, short, cut = table.rows
    assert greedy.cells["chair_i"].value == 0.5
    assert short.cells["chair_i"].value == cut.cells["chair_i"].value == 0.0
    assert short.cells["words"].value == cut.cells["words"].value == 5
    assert short.cells["chair_i"].difference == -0.5
    assert short.cells["chair_i"].verdict == "better"
    assert short.sign == "better than greedy only"
    # The control's differences are its own, from greedy; how the method differs from it is said in words.
    assert cut.of == "short"
    assert cut.cells["chair_i"].difference == -0.5
    assert cut.cells["chair_i"].verdict == "better"
    assert cut.sign == "short minus this: CHAIR_i +0.0 [+0.0, +0.0]"


def test_a_gain_at_the_same_length_is_one(tmp_path: Path) -> None:
    honest = "A dog on a bench and a dog and a dog."
    records = captions(LONG, "greedy") + captions("A dog on a bench and a man and a dog.", "man")
    records += captions("A bench under a dog on a wide lawn .", "good")
    records += captions(honest + " And a cat. And a car.", "again")
    run = write_run(tmp_path / "run", records, ["greedy", "man", "good", "again"])
    signs = {row.label: row.sign for row in compare([run]).tables[0].rows if not row.of}
    assert signs["good"] == "+ better than the control"
    assert signs["greedy"] == ""
    # It names the cat and the car as greedy does, and drowns them in dogs.
    assert signs["again"] == "better in repeated mentions only"


def test_worse_and_not_told_apart(tmp_path: Path) -> None:
    records = captions(SHORT, "greedy") + captions(LONG, "worse") + captions(SHORT, "same")
    records[-1]["response"] = LONG  # one picture of thirty
    run = write_run(tmp_path / "run", records, ["greedy", "worse", "same"])
    signs = {row.label: row.sign for row in compare([run]).tables[0].rows if not row.of}
    assert signs == {"greedy": "", "worse": "- worse than greedy", "same": "= not told apart from greedy"}


def test_runs_are_compared_with_greedy_of_another_run_of_the_same_model(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", captions(LONG, "greedy") + captions(SHORT, "avc"), ["greedy", "avc"])
    two = write_run(tmp_path / "two", captions(SHORT, "avc", range(10)), ["avc"])
    other = write_run(tmp_path / "other", captions(SHORT, "avc"), ["avc"], model="another")
    rows = {row.label: row for row in compare([one, two, other]).tables[0].rows}
    assert list(rows) == [
        "greedy", "avc (one)", "greedy cut to avc (one)", "avc (two)", "greedy cut to avc (two)", "avc (other)",
    ]  # fmt: skip
    assert rows["avc (two)"].cells["chair_i"].difference == -0.5
    assert rows["avc (two)"].notes == {"n": 10, "n_failed": 0}
    assert rows["avc (other)"].cells["chair_i"].difference is None
    assert rows["avc (other)"].sign == ""


def test_pope_has_sampling_with_the_cut_for_control(tmp_path: Path) -> None:
    labels = ["yes", "no"] * 60
    records = [question(at, "Yes.", label) for at, label in enumerate(labels)]
    records += [question(at, "Yes." if label == "yes" else "No.", label, "avc") for at, label in enumerate(labels)]
    greedy_only = write_run(tmp_path / "a", records, ["greedy", "avc"])
    assert compare([greedy_only]).tables[0].rows[1].sign == "better than greedy (no control)"
    records += [
        question(at, "Yes." if label == "yes" else "No.", label, "sample+cut") for at, label in enumerate(labels)
    ]
    both = write_run(tmp_path / "b", records, ["greedy", "sample+cut", "avc"])
    (table,) = compare([both]).tables
    assert not any("Not measured" in note for note in table.notes)
    rows = {row.label: row for row in table.rows}
    assert rows["avc"].sign == "better than greedy only"
    # The same as greedy is no gain, however bad the control is.
    worse = [dict(record) for record in records if record["method"] == "sample+cut"]
    same = [{**record, "method": "same"} for record in records if record["method"] == "greedy"]
    for at, record in enumerate(worse):
        record["response"] = "No." if labels[at] == "yes" else "Yes."
    mixed = [record for record in records if record["method"] != "sample+cut"] + worse + same
    third = write_run(tmp_path / "c", mixed, ["greedy", "sample+cut", "avc", "same"])
    signs = {row.label: row.sign for row in compare([third]).tables[0].rows}
    assert signs == {
        "greedy": "",
        "sample+cut": "- worse than greedy",
        "avc": "+ better than the control",
        "same": "= not told apart from greedy",
    }
    assert rows["avc"].cells["accuracy"].value == 1.0
    assert rows["greedy"].cells["yes_ratio"].value == 1.0


def mixed(method: str, said: Sequence[str]) -> list[dict[str, Any]]:
    """Captions of thirty pictures, the given ones in turn."""
    return [caption(image, said[image % len(said)], TRUTH, method) for image in range(30)]


@pytest.mark.parametrize(
    ("said", "sign"),
    [
        # Greedy names dog, bench, cat and car on every other picture, and dog and bench on the rest.
        (("A dog on a bench and a cat.", "A dog on a bench and a cat."), "- worse than greedy in CHAIR_s"),
        (("A dog.", "A dog."), "± better than greedy only, but worse in recall, F1"),
        (("A dog on a bench and a cat and a car.", "A dog on a bench"), "= not told apart from greedy"),
    ],
)
def test_the_verdict_says_what_the_cells_say(said: Sequence[str], sign: str, tmp_path: Path) -> None:
    records = mixed("greedy", (LONG, SHORT)) + mixed("other", said)
    row = compare([write_run(tmp_path / "run", records, ["greedy", "other"])]).tables[0].rows[1]
    told = {key: cell.verdict for key, cell in row.cells.items() if cell.verdict}
    assert row.sign == sign, told
    headings = {"chair_s": "CHAIR_s", "recall": "recall", "f1": "F1"}
    for key, heading in headings.items():
        if told.get(key) == "worse":
            assert heading in row.sign


@pytest.mark.parametrize("width", [40, 80, 120])
def test_tables_fit_the_terminal_and_say_things_once(width: int, tmp_path: Path) -> None:
    long = "locore:beta=0.35,layers=1;2;3+avc:alpha=1.0"
    questions = [question(at, "Yes.", "yes", method) for method in ("greedy", long) for at in range(60)]
    records = captions(LONG, "greedy") + captions(SHORT, long) + questions
    comparison = compare([write_run(tmp_path / "run", records, ["greedy", long])])
    text = comparison.text(width)
    assert max(map(len, text.splitlines())) <= width
    assert " ".join(text.split()).count("paired, resampled by picture") == 1
    assert " ".join(text.split()).count("Not measured, though a comparison needs it") == 1
    for heading in ("CHAIR_s", "repetition", "tokens/s ratio", "balanced accuracy"):
        assert heading in text
    assert " ".join(text.split()).count("better than greedy only") == 1
    wide = comparison.text()
    numbers = ("50.0", "-50.0", "[+0.0, +0.0]", "40.0")
    assert all((number in text) == (number in wide) for number in numbers)


def test_all_forms_say_the_same(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    recipe = Recipe(model="fake", data=str(data), methods=("greedy", "sample"), resamples=20)
    bench(recipe, tmp_path / "run", opened=FakeEngine())
    found = compare([tmp_path / "run"], ["chair"])
    text, markdown = found.text(), found.markdown()
    assert "CHAIR, 6 samples, rule pattern" in text
    for form in (text, markdown):
        assert "50.0" in form
        assert "greedy cut to sample" in form
    assert markdown.splitlines()[2].startswith("| method | CHAIR_s | CHAIR_i | CHAIR_i unique | recall | F1 | words |")
    assert len({line.count("|") for line in markdown.splitlines()[2:]}) == 1
    lines = list(csv.DictReader(io.StringIO(found.csv())))
    (value,) = (line for line in lines if line["row"] == "greedy" and line["number"] == "chair_s")
    assert (value["value"], value["benchmark"], value["difference"]) == ("0.5", "chair", "")
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["tables"][0]["rows"][0]["numbers"]["chair_s"]["value"] == 0.5
    assert len(compare([tmp_path / "run"]).tables) == 4


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([])
    with pytest.raises(ValueError, match=r"holds no run\.json"):
        compare([tmp_path])
    run = write_run(tmp_path / "run", captions(LONG, "greedy"), ["greedy"])
    with pytest.raises(ValueError, match="the runs hold chair, not pope"):
        compare([run], ["pope"])


def test_the_tables_of_a_run_are_drawn_from_its_metrics(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench` scores once: its tables are those of `compare`, which scores the folder anew."""
    metrics = run(data, tmp_path / "run", methods=["greedy", "sample+cut", "locore"], benchmarks=["chair", "pope"])
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    again = compare([tmp_path / "run"])
    monkeypatch.setattr(Chair, "score", None)  # nothing is scored from here on
    monkeypatch.setattr(Pope, "score", None)
    assert tables_of(metrics).text() == tables_of(stored).text() == again.text()
    assert tables_of(stored).to_dict() == again.to_dict()


def test_without_greedy_no_speed_is_a_ratio_to_it(tmp_path: Path) -> None:
    without = write_run(tmp_path / "run", captions(LONG, "one") + captions(SHORT, "two"), ["one", "two"])
    assert [row.cells["tokens_per_second_ratio"].value for row in compare([without]).tables[0].rows] == [None, None]
    beside = write_run(tmp_path / "with", captions(LONG, "greedy") + captions(SHORT, "two"), ["greedy", "two"])
    rows = [row for row in compare([beside]).tables[0].rows if not row.of]
    assert [row.cells["tokens_per_second_ratio"].value for row in rows] == [1.0, 1.0]
