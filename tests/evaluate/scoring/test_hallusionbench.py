"""Judge-based sets: loading, prompts, verdicts, three accuracies, and a judge behind an engine."""

import json

import pytest

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.scoring.judged import hallusionbench


def question(category, figure, number, group="0"):
    return {
        "category": category,
        "subcategory": "chart",
        "set_id": group,
        "figure_id": figure,
        "question_id": number,
        "question": "Is it?",
        "gt_answer_details": "It is.",
        "visual_input": "0" if category == "VS" and figure == "0" else "1",
    }


QUESTIONS = [
    question("VD", "0", "0"),
    question("VD", "0", "1"),
    question("VD", "1", "0"),
    question("VS", "0", "0"),
    question("VS", "1", "0"),
]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Correct.", "correct"),
        ("INCORRECT", "incorrect"),
        ("not correct, incorrect", "incorrect"),
        ("unclear", "unclear"),
        ("", "unclear"),
    ],
)
def test_verdicts(reply, found):
    assert hallusionbench.verdict(reply) == found


def test_accuracies_by_hand():
    result = hallusionbench.score_hallusionbench(
        QUESTIONS, ["correct", "incorrect", "correct", "unclear", "unclear"], "tiny"
    )
    assert result["a_acc"] == 3 / 5  # the open question without a picture may stay open, the one with may not
    # figures: VD 0 (right, wrong), VD 1 (right), VS 1 (open)
    assert (result["f_acc"], result["n_figures"]) == (1 / 3, 3)
    # pairs: VD question 0 (right, right), VD question 1 (wrong), VS question 0 (may be open, open)
    assert (result["q_acc"], result["n_pairs"]) == (1 / 3, 3)
    assert (result["judge"], result["official"], result["n_unclear"]) == ("tiny", False, 2)
    assert hallusionbench.CAUTION in result["warnings"]
    assert hallusionbench.score_hallusionbench([], [], "tiny")["a_acc"] is None


def test_judging(tmp_path):
    (tmp_path / "HallusionBench.json").write_text(json.dumps(QUESTIONS))
    questions = hallusionbench.read_hallusionbench(tmp_path / "HallusionBench.json")
    seen = []

    def reply(prompts):
        seen.extend(prompts)
        return ["correct"] * len(prompts)

    assert hallusionbench.judge_hallusionbench(questions, list("abcde"), reply) == ["correct"] * 5
    assert "Reference answer: It is.\nAnswer: b\n" in seen[1]
    with pytest.raises(ValueError, match="5 questions and 1 answers"):
        hallusionbench.judge_hallusionbench(questions, ["a"], reply)
    with pytest.raises(ValueError, match="gave 0 replies to 5 prompts"):
        hallusionbench.judge_hallusionbench(questions, list("abcde"), lambda prompts: [])


def test_pictures(tmp_path):
    assert hallusionbench.hallusionbench_image(QUESTIONS[3], tmp_path) is None
    assert hallusionbench.hallusionbench_image(QUESTIONS[2], tmp_path) == tmp_path / "VD/chart/0_1.png"


def test_other_files_are_refused(tmp_path):
    (tmp_path / "other.json").write_text('[{"category": "VD"}]')
    with pytest.raises(ValueError, match=r"question 1 of .* lacks subcategory, set_id"):
        hallusionbench.read_hallusionbench(tmp_path / "other.json")


def test_a_judge_behind_an_engine():
    from grounddecode.engines.base import Response

    class Fixed:
        name = "fixed"

        def generate(self, requests, decoding, methods=()):
            assert decoding.max_new_tokens == 8
            assert not any(request.images for request in requests)
            return [
                Response(sample_id=request.sample_id, text=request.prompt.upper(), n_tokens=1, seconds=0.0)
                for request in requests
            ]

    assert hallusionbench.engine_judge(Fixed())(["a", "b"]) == ["A", "B"]


def test_mmhal_export(tmp_path):
    (tmp_path / "template.json").write_text(json.dumps([{"question": "?", "model_answer": ""}]))
    hallusionbench.export_mmhal(tmp_path / "template.json", ["It is red."], tmp_path / "out.json")
    assert json_lines.read_json(tmp_path / "out.json") == [{"question": "?", "model_answer": "It is red."}]
    with pytest.raises(ValueError, match="1 entries and there are 2 answers"):
        hallusionbench.export_mmhal(tmp_path / "template.json", ["a", "b"], tmp_path / "out.json")
