"""POPE: yes/no questions about objects, scored by the rule of a named public program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.answers.pope_order import in_order, of_questions, other_objects
from grounddecode.evaluate.scoring.pope_questions import build, question_text
from grounddecode.evaluate.scoring.pope_rules import (
    COUNTERS,
    FIELDS,
    LITTLE,
    READERS,
    RULES,
    Counts,
    check_rule,
    near_answers,
    says_yes,
)
from grounddecode.evaluate.scoring.ratios import harmonic, ratio

__all__ = ["FIELDS", "RULES", "answer_text", "build", "check_rule", "question_text", "says_yes", "score"]

Question = Mapping[str, Any]
Answer = str | Mapping[str, Any]


def answer_text(answer: Answer, rule: str = "official") -> str:
    """The model's text of one answer record: the fields `answer`, `text` and `ans`, the rule's own field first.

    Raises:
        ValueError: the record has none of the fields, or the field is not a string.
    """
    if isinstance(answer, str):
        return answer
    for field in FIELDS[rule]:
        if field in answer:
            if isinstance(answer[field], str):
                return str(answer[field])
            raise ValueError(f"an answer holds no text in {field!r}: give a string there.")
    raise ValueError(
        f"an answer with {json_lines.fields(answer)} has none of the fields answer, text, ans: name the one you mean."
    )


def score(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    rule: str = "official",
    allow_truncation: bool = False,
    by_position: bool = False,
    by_id: bool = False,
) -> dict[str, Any]:
    """Score answers, matched to questions by position.

    Where both have a `question_id` and these disagree, the answers are put in order by them (with a warning), or
    refused; the rule `vcd` always refuses, as its program does.

    Args:
        questions: records with `label` ("yes" or "no"); `category` splits the result of the rule `llava`, as in its
            program.
        answers: texts, or records with `answer`, `text` or `ans`.
        rule: one of `RULES`: RUCAIBox/POPE `evaluate.py` (default), LLaVA `eval_pope.py`, OPERA `pope_eval.py`,
            VCD `eval_pope.py`, lmms-eval `pope`, and those of three benchmarks of POPE's kind: RePOPE `eval_utils.py`
            (an answer with neither yes nor no leaves all counts), DASH-B `eval_utils.py` (there it is wrong), R-Bench
            `eval.py` (POPE's reader, 0.00001 in the denominators).
        allow_truncation: score the common part when the lengths differ (the public programs do so silently).
        by_position: match by position whatever the ids say, as the public programs do.
        by_id: take for each question the answer with its `question_id`; others are left out. So POPE's answers are
            scored on RePOPE's questions, which are fewer.

    Returns:
        `tp fp tn fn accuracy precision recall f1 yes_ratio n rule`, beside them `balanced_accuracy`, `label_yes_ratio`,
        `other` (pairs the rule counts in none of the four) and `warnings`; with the rule repope
        `unanswered`, with dash-b `tnr tpr harmonic_mean`. Fractions, not rounded; an undefined one is None.

    Raises:
        ValueError: unknown rule, different lengths, no label, ids that disagree and give no order.
    """
    check_rule(rule)
    if by_id:
        answers = of_questions(questions, answers)
    if len(questions) != len(answers) and not allow_truncation:
        raise ValueError(
            f"there are {len(questions)} questions and {len(answers)} answers: give files that belong together, "
            "or allow truncation to score the common part."
        )
    answers, notes = in_order(questions, answers, by_position, may_sort=rule != "vcd")
    texts = [answer_text(answer, rule) for answer in answers]
    labels = [_label(question) for question in questions]
    warnings = _label_warnings(labels, rule) + notes + other_objects(questions, answers) + near_answers(texts, rule)
    if len(labels) != len(texts):
        warnings.append(f"{len(labels)} questions and {len(texts)} answers: only the common part is scored.")
    counts = COUNTERS[rule](labels, texts)
    result = _summary(counts, labels, texts, rule, warnings)
    if rule == "llava" and questions and all("category" in question for question in questions):
        result["categories"] = _by_category(questions, answers)
    return result


def _label(question: Question) -> Any:
    if "label" not in question:
        raise ValueError(
            f"a question with {json_lines.fields(question)} has no label: give a question file with yes/no labels, "
            "or the folder of the labels."
        )
    return question["label"]


def _label_warnings(labels: Sequence[Any], rule: str) -> list[str]:
    odd = sorted({repr(label) for label in labels} - {"'yes'", "'no'"})
    return [f"labels other than yes and no, read as the rule {rule} reads them: {', '.join(odd[:5])}."] if odd else []


def _summary(
    counts: Counts, labels: Sequence[Any], texts: Sequence[str], rule: str, warnings: list[str]
) -> dict[str, Any]:
    tp, fp, tn, fn = counts.tp, counts.fp, counts.tn, counts.fn
    answered = len(texts) if rule in READERS else counts.n
    undefined: list[str] = []
    accuracy = ratio(tp + tn, counts.n, "accuracy", undefined, "there is no answer")
    precision = ratio(tp, tp + fp, "precision", undefined, "no answer is yes")
    recall = ratio(tp, tp + fn, "recall", undefined, "no label is yes")
    f1 = harmonic(precision, recall, "f1", undefined)
    yes_ratio = ratio(counts.said_yes, answered, "yes_ratio", undefined, "there is no answer")
    if rule == "lmms-eval":  # has 0 where the others divide by zero, and groups the product of F1 otherwise
        precision, recall, yes_ratio = precision or 0, recall or 0, yes_ratio or 0
        f1 = 2 * (precision * recall) / (precision + recall) if precision + recall else 0
        undefined = [f"{sentence[:-1]}, where lmms-eval has 0." for sentence in undefined]
    if rule == "r-bench":
        precision, recall = tp / (tp + fp + LITTLE), tp / (tp + fn + LITTLE)
        f1 = 2 * precision * recall / (precision + recall + LITTLE)
        undefined = undefined if not counts.n else []
    balanced = (tp / (tp + fn) + tn / (tn + fp)) / 2 if tp + fn and tn + fp else None
    return {
        "rule": rule,
        "n": counts.n,
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
        "accuracy": accuracy,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes_ratio": yes_ratio,
        "balanced_accuracy": balanced,
        "label_yes_ratio": (tp + fn) / counts.n if counts.n else None,
        "other": counts.other,
        **({"unanswered": counts.unanswered} if rule == "repope" else {}),
        **(_of_dash(counts) if rule == "dash-b" else {}),
        "warnings": warnings + undefined,
    }


def _of_dash(counts: Counts) -> dict[str, float | None]:
    """What DASH-B's program prints beside the accuracy, in its order of operations."""
    no, yes = counts.tn + counts.fp, counts.tp + counts.fn
    tnr, tpr = counts.tn / no if no else None, counts.tp / yes if yes else None
    mean = 2 * (tpr * tnr) / (tpr + tnr) if tpr is not None and tnr is not None and tpr + tnr else None
    return {"tnr": tnr, "tpr": tpr, "harmonic_mean": mean}


def _by_category(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    pairs: dict[str, list[tuple[Question, Answer]]] = {}
    for question, answer in zip(questions, answers, strict=False):
        plain = {key: value for key, value in question.items() if key != "category"}
        pairs.setdefault(str(question["category"]), []).append((plain, answer))
    return {
        name: score([q for q, _ in group], [a for _, a in group], "llava", by_position=True)
        for name, group in pairs.items()
    }
