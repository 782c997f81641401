"""POPE: yes/no questions about objects, scored by the rule of a named public program."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.answers.pope_order import in_order, other_objects
from grounddecode.evaluate.scoring.pope_questions import build, question_text
from grounddecode.evaluate.scoring.ratios import harmonic, ratio

__all__ = ["FIELDS", "RULES", "answer_text", "build", "question_text", "says_yes", "score"]

Question = Mapping[str, Any]
Answer = str | Mapping[str, Any]

#: Where each family of answer files keeps the text, in the order in which we look.
FIELDS = {
    "official": ("answer", "text", "ans"),
    "llava": ("text", "answer", "ans"),
    "opera": ("ans", "answer", "text"),
    "vcd": ("text", "answer", "ans"),
    "lmms-eval": ("answer", "text", "ans"),
}
RULES = tuple(FIELDS)


@dataclass
class _Counts:
    """What a rule makes of question and answer pairs."""

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0
    said_yes: int = 0
    other: int = 0

    @property
    def n(self) -> int:
        return self.tp + self.fp + self.tn + self.fn + self.other

    def add(self, label_yes: bool, answer_yes: bool) -> None:
        self.tp += label_yes and answer_yes
        self.fp += not label_yes and answer_yes
        self.tn += not label_yes and not answer_yes
        self.fn += label_yes and not answer_yes


def says_yes(text: str) -> bool:
    """The rule of POPE `evaluate.py` (and of LLaVA): no when a word of the first sentence is No, no or not; else yes.

    The first sentence ends at the first dot, commas vanish, words lie between single spaces. So `No!` and an empty
    answer are yes, and `Yes, no dog though` is no.
    """
    words = text.split(".", 1)[0].replace(",", "").split(" ")
    return not ("No" in words or "not" in words or "no" in words)


def _says_yes_opera(text: str) -> bool:
    words = text.replace(".", "").replace(",", "").split(" ")
    return not any(word in ("No", "not", "no", "NO") or word.endswith("n't") for word in words)


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
) -> dict[str, Any]:
    """Score answers, matched to questions by position.

    Where both have a `question_id` and these disagree, the answers are put in order by them (with a warning), or
    refused; the rule `vcd` always refuses, as its program does.

    Args:
        questions: records with `label` ("yes" or "no"); `category` splits the result of the rule `llava`, as in its
            program.
        answers: texts, or records with `answer`, `text` or `ans`.
        rule: one of `RULES`: RUCAIBox/POPE `evaluate.py` (default), LLaVA `eval_pope.py`, OPERA `pope_eval.py`,
            VCD `eval_pope.py`, lmms-eval `pope`.
        allow_truncation: score the common part when the lengths differ (the public programs do so silently).
        by_position: match by position whatever the ids say, as the public programs do.

    Returns:
        `tp fp tn fn accuracy precision recall f1 yes_ratio n rule`, beside them `balanced_accuracy`, `other` (pairs the
        rule counts in none of the four) and `warnings`. Fractions, not rounded; an undefined one is None.

    Raises:
        ValueError: unknown rule, different lengths, no label, ids that disagree and give no order.
    """
    check_rule(rule)
    if len(questions) != len(answers) and not allow_truncation:
        raise ValueError(
            f"there are {len(questions)} questions and {len(answers)} answers: give files that belong together, "
            "or allow truncation to score the common part."
        )
    answers, notes = in_order(questions, answers, by_position, may_sort=rule != "vcd")
    texts = [answer_text(answer, rule) for answer in answers]
    labels = [_label(question) for question in questions]
    warnings = _label_warnings(labels, rule) + notes + other_objects(questions, answers) + _near_answers(texts, rule)
    if len(labels) != len(texts):
        warnings.append(f"{len(labels)} questions and {len(texts)} answers: only the common part is scored.")
    counts = _COUNTERS[rule](labels, texts)
    result = _summary(counts, labels, texts, rule, warnings)
    if rule == "llava" and questions and all("category" in question for question in questions):
        result["categories"] = _by_category(questions, answers)
    return result


def check_rule(rule: str) -> None:
    """Raise ValueError for a rule that there is not."""
    if rule not in FIELDS:
        raise ValueError(f"POPE has no rule {rule!r}: choose one of {', '.join(RULES)}.")


#: A yes or a no that a reader would see, whether the rule does or not.
_YES, _NO = re.compile(r"\byes\b", re.IGNORECASE), re.compile(r"\b(?:no|not)\b|n['’]t\b", re.IGNORECASE)


def _near_answers(texts: Sequence[str], rule: str) -> list[str]:
    """What the rule makes of answers that are no plain yes or no."""
    if rule == "lmms-eval":
        odd = [text for text in texts if text.lower().strip() not in ("yes", "no")]
        return _told(odd, "are not exactly yes or no and count as wrong")
    neither = [text for text in texts if not _YES.search(text) and not _NO.search(text)]
    if rule == "vcd":
        return _told(
            [text for text in neither if "yes" not in text.lower() and "no" not in text.lower()],
            "hold neither yes nor no and count as wrong",
        )
    unseen = [text for text in texts if _NO.search(text) and not _YES.search(text) and _READERS[rule](text)]
    return _told(neither, "hold neither yes nor no and count as yes") + _told(
        unseen, f"hold a no that the rule {rule} does not see, and count as yes"
    )


def _told(odd: Sequence[str], what: str) -> list[str]:
    return [f"{len(odd)} answers {what}, such as {odd[0][:60]!r}."] if odd else []


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


def _count_words(reads_yes: Callable[[str], bool]) -> Callable[[Sequence[Any], Sequence[str]], _Counts]:
    def count(labels: Sequence[Any], texts: Sequence[str]) -> _Counts:
        counts = _Counts()
        answers = [reads_yes(text) for text in texts]
        for label, answer in zip(labels, answers, strict=False):
            counts.add(label != "no", answer)
        counts.said_yes = sum(answers)  # of all answers, as the programs do, not of the pairs
        return counts

    return count


def _count_vcd(labels: Sequence[Any], texts: Sequence[str]) -> _Counts:
    """A label yes is met by "yes" anywhere in the text, a label no by "no" anywhere; other labels are unknown."""
    counts = _Counts()
    for label, text in zip(labels, texts, strict=False):
        asked, said = str(label).lower().strip(), text.lower().strip()
        if asked in ("yes", "no"):
            counts.add(asked == "yes", "yes" in said if asked == "yes" else "no" not in said)
        else:
            counts.other += 1
    counts.said_yes = counts.tp + counts.fp
    return counts


def _count_lmms(labels: Sequence[Any], texts: Sequence[str]) -> _Counts:
    """The whole answer has to be yes or no; anything else is wrong and in none of the four counts."""
    counts = _Counts()
    for label, text in zip(labels, texts, strict=False):
        asked, said = str(label).lower().strip(), text.lower().strip()
        if asked not in ("yes", "no"):
            raise ValueError(f"the rule lmms-eval takes the labels yes and no, not {label!r}: mend the question file.")
        if said in ("yes", "no"):
            counts.add(asked == "yes", said == "yes")
        else:
            counts.other += 1
        counts.said_yes += asked == "yes"  # their yes ratio is taken from the labels
    return counts


_READERS = {"official": says_yes, "llava": says_yes, "opera": _says_yes_opera}
_COUNTERS: dict[str, Callable[[Sequence[Any], Sequence[str]], _Counts]] = {
    **{rule: _count_words(reads_yes) for rule, reads_yes in _READERS.items()},
    "vcd": _count_vcd,
    "lmms-eval": _count_lmms,
}


def _summary(
    counts: _Counts, labels: Sequence[Any], texts: Sequence[str], rule: str, warnings: list[str]
) -> dict[str, Any]:
    tp, fp, tn, fn = counts.tp, counts.fp, counts.tn, counts.fn
    answered = len(texts) if rule in _READERS else counts.n
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
        "other": counts.other,
        "warnings": warnings + undefined,
    }


def _by_category(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    pairs: dict[str, list[tuple[Question, Answer]]] = {}
    for question, answer in zip(questions, answers, strict=False):
        plain = {key: value for key, value in question.items() if key != "category"}
        pairs.setdefault(str(question["category"]), []).append((plain, answer))
    return {
        name: score([q for q, _ in group], [a for _, a in group], "llava", by_position=True)
        for name, group in pairs.items()
    }
