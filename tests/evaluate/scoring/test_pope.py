"""POPE: the answer rules of five programs, their counts and their silent corners."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grounddecode.evaluate.answers import scored
from grounddecode.evaluate.scoring import pope

GOLDEN = Path(__file__).parents[4] / "shared/golden/pope"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not beside the repository")

# What the specification of the official rule lists, word for word.
SAID_YES = [
    *("NO", "**No**", '"No"', "No!", "Nope", "None", "(no)", "No;", "\nNo", "No\t", "There isn't a dog", "Answer:No"),
    *(
        "Mr. No",
        "1. No",
        "B. No",
        ".No",
        "否",
        "",
        "Yes. But not a dog.",
        "I cannot see a dog",
        "Yes",
        "nothing",
        "maybe",
    ),
]
SAID_NO = ["No", "no", "Yes, no dog though", "no and yes", "not sure", "The dog is not. visible", "I can not see a dog"]


def asked(*labels):
    return [{"question_id": number, "label": label} for number, label in enumerate(labels, 1)]


@pytest.mark.parametrize("text", SAID_YES)
def test_official_reads_yes(text):
    assert pope.says_yes(text)


@pytest.mark.parametrize(
    "text", [*SAID_NO, "No, there is no dog.", "no,", ",no", " no", "n,o", "no  dog", "No\u00a0dog no"]
)
def test_official_reads_no(text):
    assert not pope.says_yes(text)


@given(st.text(alphabet="NnoOt ,.\n!yesY'", max_size=14))
@settings(max_examples=400, deadline=None)
def test_official_rule_against_a_regular_expression(text):
    first = re.match(r"[^.]*", text, re.S).group().replace(",", "")
    assert pope.says_yes(text) == (re.search(r"(?:\A| )(?:No|no|not)(?= |\Z)", first) is None)


def test_counts_and_ratios_by_hand():
    # yes/yes x3, yes/no x1, no/yes x2, no/no x4
    labels = ["yes"] * 4 + ["no"] * 6
    answers = ["Yes", "Yes.", "yes it is", "No"] + ["Yes"] * 2 + ["No."] * 4
    result = pope.score(asked(*labels), answers)
    assert (result["tp"], result["fn"], result["fp"], result["tn"]) == (3, 1, 2, 4)
    assert result["accuracy"] == 7 / 10
    assert result["precision"] == 3 / 5
    assert result["recall"] == 3 / 4
    assert result["f1"] == 2 * 0.6 * 0.75 / (0.6 + 0.75)
    assert result["yes_ratio"] == 0.5
    assert result["balanced_accuracy"] == (3 / 4 + 4 / 6) / 2
    assert (result["n"], result["rule"], result["warnings"]) == (10, "official", [])


def test_any_label_but_no_is_yes():
    result = pope.score(asked("Yes", "maybe", "No", "no"), ["yes"] * 4)
    assert (result["tp"], result["fp"]) == (3, 1)
    assert "maybe" in result["warnings"][0]


@pytest.mark.parametrize(
    ("rule", "text", "is_yes"),
    [
        ("opera", "NO", False),
        ("opera", "There isn't a dog", False),
        ("opera", "Yes. But not a dog.", False),
        ("opera", "Mr. No", False),
        ("opera", "n.o", False),
        ("opera", "No!", True),
        ("opera", "n't", False),
        ("official", "There isn't", True),
        ("llava", "Yes. But not a dog.", True),
        ("llava", "No", False),
    ],
)
def test_word_rules_differ_as_described(rule, text, is_yes):
    result = pope.score(asked("yes"), [text], rule)
    assert (result["tp"], result["fn"]) == ((1, 0) if is_yes else (0, 1))


def test_vcd_is_asymmetric_substring():
    labels = ["yes", "yes", "no", "no", "no", " No "]
    answers = ["Oh YES, no", "it is notable", "it is notable", "I know", "Certainly", "nothing"]
    result = pope.score(asked(*labels), answers, "vcd")
    assert (result["tp"], result["fn"], result["tn"], result["fp"]) == (1, 1, 3, 1)
    assert result["yes_ratio"] == 2 / 6


def test_vcd_counts_unknown_labels_in_the_total():
    result = pope.score(asked("yes", "perhaps"), ["yes", "yes"], "vcd")
    assert (result["other"], result["n"], result["accuracy"]) == (1, 2, 0.5)


def test_vcd_refuses_ids_that_differ():
    with pytest.raises(ValueError, match="pair 2 has question_id 2 and 7"):
        pope.score(asked("yes", "no"), [{"question_id": 1, "text": "yes"}, {"question_id": 7, "text": "no"}], "vcd")


def test_lmms_eval_wants_the_whole_answer_and_takes_yes_ratio_from_the_labels():
    labels = ["yes", "yes", "yes", "no", "no"]
    answers = [" Yes ", "yes.", "NO", "no", "it is not"]
    result = pope.score(asked(*labels), answers, "lmms-eval")
    assert (result["tp"], result["fn"], result["tn"], result["fp"], result["other"]) == (1, 1, 1, 0, 2)
    assert result["accuracy"] == 2 / 5
    assert result["recall"] == 1 / 2  # "yes." is wrong, and no false negative either
    assert result["precision"] == 1.0
    assert result["yes_ratio"] == 3 / 5


def test_lmms_eval_says_zero_where_others_divide_by_zero():
    result = pope.score(asked("no"), ["no"], "lmms-eval")
    assert (result["precision"], result["recall"], result["f1"], result["yes_ratio"]) == (0, 0, 0, 0)
    assert result["warnings"][0] == "precision is undefined: no answer is yes, where lmms-eval has 0."
    with pytest.raises(ValueError, match="lmms-eval takes the labels yes and no"):
        pope.score(asked("maybe"), ["no"], "lmms-eval")


@pytest.mark.parametrize(
    ("labels", "answers", "undefined"),
    [
        (["yes", "no"], ["no", "no"], {"precision", "f1"}),
        (["no", "no"], ["yes", "no"], {"recall", "f1"}),
        (["yes", "no"], ["no", "yes"], {"f1"}),
        ([], [], {"accuracy", "precision", "recall", "f1", "yes_ratio"}),
    ],
)
def test_division_by_zero_is_none_with_a_sentence(labels, answers, undefined):
    result = pope.score(asked(*labels), answers)
    ratios = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    assert {name for name in ratios if result[name] is None} == undefined
    assert {warning.split()[0] for warning in result["warnings"]} == undefined
    json.dumps(result, allow_nan=False)


def test_truncation_is_refused_unless_allowed():
    with pytest.raises(ValueError, match="2 questions and 3 answers"):
        pope.score(asked("yes", "no"), ["Yes", "No", "Yes"])
    result = pope.score(asked("yes", "no"), ["Yes", "No", "Yes"], allow_truncation=True)
    assert (result["n"], result["tp"], result["tn"]) == (2, 1, 1)
    assert result["yes_ratio"] == 2 / 3  # of the answers, not of the pairs
    assert "common part" in result["warnings"][0]
    assert pope.score(asked("yes", "no"), ["Yes"], allow_truncation=True)["n"] == 1


def test_answer_fields_and_their_order():
    record = {"answer": "No", "text": "Yes", "ans": "NO"}
    assert pope.answer_text(record) == "No"
    assert pope.answer_text(record, "llava") == "Yes"
    assert pope.answer_text(record, "opera") == "NO"
    assert pope.answer_text({"ans": "b"}) == "b"
    with pytest.raises(ValueError, match="none of the fields"):
        pope.answer_text({"reply": "x"})
    with pytest.raises(ValueError, match="no text in 'answer'"):
        pope.answer_text({"answer": 1})


def test_llava_results_by_category():
    questions = [{"label": "yes", "category": "random"}, {"label": "no", "category": "popular"}]
    result = pope.score(questions, ["Yes", "Yes"], "llava")
    assert result["categories"]["random"]["accuracy"] == 1.0
    assert result["categories"]["popular"]["fp"] == 1


def test_unknown_rule_and_missing_label():
    with pytest.raises(ValueError, match="no rule 'loose'"):
        pope.score([], [], "loose")
    with pytest.raises(ValueError, match="has no label"):
        pope.score([{"text": "?"}], ["yes"])


@pytest.mark.parametrize("shape", ["lines", "array", "pretty"])
def test_files_as_lines_or_arrays(tmp_path, shape):
    questions, answers = asked("yes", "no"), [{"answer": "Yes\u2028no"}, {"answer": "No"}]
    for name, rows in (("q", questions), ("a", answers)):
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
        if shape != "lines":
            text = "\ufeff " + json.dumps(rows, indent=2 if shape == "pretty" else None)
        (tmp_path / name).write_text(text, "utf-8")
    result = scored.score_pope(tmp_path / "q", tmp_path / "a")
    assert (result["tp"], result["tn"]) == (1, 1)


def test_file_errors_are_one_sentence(tmp_path):
    (tmp_path / "bad").write_text('{"a": 1}\nnot json\n')
    with pytest.raises(ValueError, match="line 2, is not JSON"):
        scored.score_pope(tmp_path / "bad", tmp_path / "bad")
    with pytest.raises(ValueError, match="cannot be read"):
        scored.score_pope(tmp_path / "absent", tmp_path / "bad")
    (tmp_path / "numbers").write_text("[1, 2]")
    with pytest.raises(ValueError, match="other than JSON objects"):
        scored.score_pope(tmp_path / "numbers", tmp_path / "numbers")


# --- questions


SCENES = {
    "a": ["dog", "cat", "bus", "car"],
    "b": ["dog", "cat", "orange", "bus"],
    "c": ["dog", "apple", "fork"],
    "poor": ["dog", "cat"],
}


def absent(questions, image):
    return [q["object"] for q in questions if q["image"] == image and q["label"] == "no"]


def test_popular_questions_by_hand():
    # frequencies of the rich images, ties by first appearance: dog 3, cat 2, bus 2, car, orange, apple, fork 1
    questions = pope.build(SCENES, "popular", seed=0)
    assert [q["question_id"] for q in questions] == list(range(1, 19))
    assert [q["label"] for q in questions] == ["yes", "no"] * 9
    assert "poor" not in {q["image"] for q in questions}
    assert [q["object"] for q in questions if q["image"] == "b" and q["label"] == "yes"] == ["dog", "cat", "orange"]
    assert absent(questions, "a") == ["orange", "apple", "fork"]
    assert absent(questions, "b") == ["car", "apple", "fork"]
    assert absent(questions, "c") == ["cat", "bus", "car"]
    assert questions[0]["text"] == "Is there a dog in the image?"


def test_adversarial_questions_by_hand():
    questions = pope.build(SCENES, "adversarial", seed=0)
    # beside dog: cat 2, bus 2, car, orange, apple, fork 1; beside apple and fork: nothing but c's own, so any other
    assert absent(questions, "a")[0] == "orange"  # the first of dog's that a has not
    assert absent(questions, "c")[0] == "cat"
    assert set(absent(questions, "c")[1:]) <= {"bus", "orange", "car"}


@pytest.mark.parametrize("strategy", ["random", "popular", "adversarial"])
def test_questions_are_sound_and_repeatable(strategy):
    questions = pope.build(SCENES, strategy, seed=3)
    assert questions == pope.build(SCENES, strategy, seed=3)
    for image in "abc":
        asked_here = [q["object"] for q in questions if q["image"] == image]
        assert len(asked_here) == len(set(asked_here)) == 6
        assert not set(absent(questions, image)) & set(SCENES[image])


def test_the_strategies_ask_about_the_same_images():
    scenes = {number: [f"thing{(number + step) % 40}" for step in range(5)] for number in range(40)}
    drawn = [
        list(dict.fromkeys(q["image"] for q in pope.build(scenes, strategy, seed=5, images=10)))
        for strategy in ("random", "popular", "adversarial")
    ]
    assert drawn[0] == drawn[1] == drawn[2] != sorted(drawn[0])


def test_question_errors():
    with pytest.raises(ValueError, match="4 images are wanted, but only 3"):
        pope.build(SCENES, "random", seed=0, images=4)
    with pytest.raises(ValueError, match="no object is absent from image 1"):
        pope.build({1: ["a", "b", "c"]}, "random", seed=0)
    with pytest.raises(ValueError, match="no strategy 'hard'"):
        pope.build(SCENES, "hard", seed=0)


@needs_golden
@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
def test_released_files_read_and_say_what_our_questions_say(split):
    path = GOLDEN / f"coco_pope_{split}.json"
    questions = scored.json_lines.read(path)
    assert len(questions) == 3000
    thing = re.compile(r"Is there an? (.+) in the image\?")
    ours = [pope.question_text(thing.fullmatch(question["text"])[1]) for question in questions]
    differ = [question["text"] for question, text in zip(questions, ours, strict=True) if question["text"] != text]
    assert differ == (["Is there an traffic light in the image?"] if split == "random" else [])  # a slip of the file
    perfect = pope.score(questions, [q["label"].capitalize() + "." for q in questions])
    assert (perfect["tp"], perfect["tn"], perfect["accuracy"], perfect["yes_ratio"]) == (1500, 1500, 1.0, 0.5)
