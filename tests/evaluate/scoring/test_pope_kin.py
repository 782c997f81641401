"""The rules of POPE's kin, by hand and on what their authors published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grounddecode.cli import main
from grounddecode.evaluate import json_lines
from grounddecode.evaluate.benchmarks.dash_b import Dash
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.scoring import pope

GOLDEN = Path(__file__).parents[4] / "shared/golden"
LABELS = st.lists(
    st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["Yes", "no.", "Not so", "", "?"])), min_size=1
)


def asked(*labels: str) -> list[dict[str, object]]:
    return [{"question_id": number, "label": label} for number, label in enumerate(labels, 1)]


def test_repope_leaves_out_what_says_neither() -> None:
    answers = ["Yes, no", "nothing", "It is not.", "maybe", "YES", "I see a dog"]
    found = pope.score(asked("yes", "yes", "no", "no", "no", "yes"), answers, "repope")
    assert [found[key] for key in ("tp", "fn", "tn", "fp", "unanswered", "n")] == [1, 1, 1, 1, 2, 4]
    assert (found["accuracy"], found["yes_ratio"], found["label_yes_ratio"]) == (0.5, 0.5, 0.5)
    assert "2 answers hold neither yes nor no and are left out" in found["warnings"][0]


def test_dash_takes_what_says_neither_for_wrong() -> None:
    found = pope.score(asked("yes", "no", "no", "yes"), ["maybe", "maybe", "no", "yes"], "dash-b")
    assert [found[key] for key in ("tp", "fn", "tn", "fp", "n", "accuracy", "yes_ratio")] == [1, 1, 1, 1, 4, 0.5, 0.25]


@settings(max_examples=200, deadline=None)
@given(LABELS)
def test_both_against_a_second_telling(pairs: list[tuple[str, str]]) -> None:
    read = ["yes" if "yes" in text.lower() else "no" if "no" in text.lower() else None for _, text in pairs]
    told = [(label, answer) for (label, _), answer in zip(pairs, read, strict=True)]
    questions, answers = asked(*(label for label, _ in pairs)), [text for _, text in pairs]
    repope, dash = (pope.score(questions, answers, rule) for rule in ("repope", "dash-b"))
    kept = [(label, answer) for label, answer in told if answer]
    assert repope["accuracy"] == (sum(a == b for a, b in kept) / len(kept) if kept else None)
    assert dash["accuracy"] == sum(a == b for a, b in told) / len(told)


def test_r_bench_has_a_little_in_its_denominators() -> None:
    found = pope.score(asked("yes", "No.", "yes", "no"), ["Yes", "There is no dog", "no", "Yes. No"], "r-bench")
    assert [found[key] for key in ("tp", "tn", "fn", "fp")] == [1, 1, 1, 1]
    share = 1 / 2.00001
    assert found["precision"] == found["recall"] == pytest.approx(share, abs=1e-15)
    assert found["f1"] == pytest.approx(2 * share * share / (2 * share + 0.00001), abs=1e-15)
    assert (found["accuracy"], found["yes_ratio"]) == (0.5, 0.5)
    nothing = pope.score(asked("no"), ["no"], "r-bench")
    assert (nothing["precision"], nothing["recall"], nothing["f1"]) == (0.0, 0.0, 0.0)  # where POPE divides by zero


def test_answers_are_taken_by_id() -> None:
    answers = [{"question_id": at, "answer": text} for at, text in ((3, "yes"), (1, "no"), (2, "yes"))]
    fewer = [{"question_id": 1, "label": "no"}, {"question_id": 3, "label": "yes"}]
    found = pope.score(fewer, answers, "repope", by_id=True)
    assert (found["tp"], found["tn"], found["n"]) == (1, 1, 2)
    for wrong, said in (
        ([{"question_id": 9, "label": "no"}], "9 has no answer"),
        ([*fewer, fewer[0]], "1 stands twice among the questions"),
        ([{"label": "no"}], "not all questions have one"),
    ):
        with pytest.raises(ValueError, match=said):
            pope.score(wrong, answers, "repope", by_id=True)
    with pytest.raises(ValueError, match="3 stands twice among the answers"):
        pope.score(fewer, [*answers, answers[0]], "repope", by_id=True)


def test_the_command_line_takes_them_by_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_lines.write(tmp_path / "q.json", [{"question_id": 2, "text": "Is there a dog in the image?", "label": "yes"}])
    json_lines.write(tmp_path / "a.json", [{"question_id": at, "text": text} for at, text in ((1, "no"), (2, "Yes"))])
    command = ["score", "pope", "--questions", str(tmp_path / "q.json"), "--answers", str(tmp_path / "a.json")]
    assert main([*command, "--rule", "repope", "--by-id", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tp"] == 1
    assert main([*command, "--rule", "repope"]) == 2


@pytest.mark.skipif(not (GOLDEN / "repope").is_dir(), reason="the golden files are not beside the repository")
@pytest.mark.parametrize(
    ("split", "yes", "no", "f1"),
    [("random", 1159, 1615, 94.1), ("popular", 1193, 1534, 92.8), ("adversarial", 1187, 1497, 93.1)],
)
def test_an_answerer_that_is_perfect_on_pope_is_not_on_repope(split: str, yes: int, no: int, f1: float) -> None:
    before = json_lines.read(GOLDEN / "pope" / f"coco_pope_{split}.json")
    after = json_lines.read(GOLDEN / "repope" / f"coco_repope_{split}.json")
    answers = [{"question_id": question["question_id"], "answer": question["label"]} for question in before]
    found = pope.score(after, answers, "repope", by_id=True)
    assert (found["tp"] + found["fn"], found["tn"] + found["fp"]) == (yes, no)
    assert found["fp"] == 139  # labels yes that RePOPE made no
    assert round(100 * found["f1"], 1) == f1


@pytest.mark.skipif(not (GOLDEN / "dash_b").is_dir(), reason="the golden files are not beside the repository")
def test_dash_gives_what_its_authors_committed_and_not_what_they_published() -> None:
    """PaliGemma-3B: the committed answers give their committed result; the leaderboard's row is of other answers."""
    answers = json_lines.read_json(GOLDEN / "dash_b" / "Paligemma-3b_answers.json")
    result = json_lines.read_json(GOLDEN / "dash_b" / "Paligemma-3b_dash_b_results.json")
    records = [{"label": one["gt"], "response": one["response"]} for one in answers]
    found, rows = Dash().score(records, Scoring())
    assert len(rows) == found["n"] == 2682
    for ours, theirs in (("accuracy", "ACC"), ("tnr", "TNR"), ("tpr", "TPR"), ("harmonic_mean", "Harmonic Mean")):
        assert found[ours] == result[theirs]
    committed = [round(100 * found[key], 1) for key in ("accuracy", "tnr", "tpr")]
    assert committed == [56.4, 26.4, 86.4]
    assert committed != [62.0, 26.4, 97.7]  # their leaderboard


def test_dash_has_its_own_numbers_for_answers_from_elsewhere() -> None:
    found = pope.score(asked("yes", "no", "no", "no"), ["yes", "maybe", "no", "No."], "dash-b")
    assert (found["tnr"], found["tpr"], found["harmonic_mean"]) == (2 / 3, 1.0, 2 * (2 / 3) / (1 + 2 / 3))
    one_label = pope.score(asked("yes"), ["yes"], "dash-b")
    assert (one_label["tnr"], one_label["tpr"], one_label["harmonic_mean"]) == (None, 1.0, None)
    assert "tnr" not in pope.score(asked("yes", "no"), ["yes", "no"], "repope")
