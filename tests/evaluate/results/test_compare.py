"""Comparison tables, by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grounddecode.evaluate.benchmarks.chair import Chair
from grounddecode.evaluate.benchmarks.pope import Pope
from grounddecode.evaluate.benchmarks.rules import Scoring, scoring_of
from grounddecode.evaluate.results.compare import compare, tables_of
from grounddecode.evaluate.run.runner import Recipe, bench
from tests.evaluate.fake import FakeEngine, run, write_folder
from tests.evaluate.results.records import LONG, SHORT, TRUTH, caption, captions, question, write_run


def test_a_run_that_was_stopped_is_read_by_the_words_of_its_data() -> None:
    assert scoring_of({"data": "somewhere", "chair_flavour": "fixed"}) == Scoring(
        chair_flavour="fixed", data="somewhere"
    )
    last = {"pope_rule": "vcd", "chair_flavour": "pattern", "data": "there"}
    assert scoring_of({"scoring": last, "data": "here", "chair_flavour": "fixed"}) == Scoring("vcd", data="here")


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


def test_runs_whose_folders_have_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = []
    for seed, text in (("seed0", SHORT), ("seed1", LONG)):
        (tmp_path / seed).mkdir()
        answers = captions(LONG, "greedy") + captions(text, "avc")
        runs.append(write_run(tmp_path / seed / "run", answers, ["greedy", "avc"]))
    rows = {row.label: row.cells["words"].value for row in compare(runs).tables[0].rows if "cut" not in row.label}
    assert list(rows) == ["greedy (seed0/run)", "avc (seed0/run)", "greedy (seed1/run)", "avc (seed1/run)"]
    assert rows["avc (seed0/run)"] == len(SHORT.split())
    assert rows["avc (seed1/run)"] == len(LONG.split())
    assert len({row.label for row in compare([runs[0], runs[0]]).tables[0].rows}) == 6


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


def test_markdown_is_bold_where_a_difference_is_for_sure(tmp_path: Path) -> None:
    (tmp_path / "a|b").mkdir()
    run = write_run(tmp_path / "a|b" / "run", captions(LONG, "greedy") + captions(SHORT, "x|y"), ["greedy", "x|y"])
    lines = compare([run]).markdown().splitlines()
    greedy, short = (next(line for line in lines if line.startswith(f"| {name} |")) for name in ("greedy", r"x\|y"))
    assert "**" not in greedy
    assert "| 0.0<br>**-50.0 [-50.0, -50.0]** |" in short  # CHAIR_i
    assert "| 5.0<br>-6.0 [-6.0, -6.0] |" in short  # words: neither better nor worse


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
