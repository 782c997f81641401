"""The rules by which public programs read yes and no, and what they count: one reader and one counter a rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: Where each family of answer files keeps the text, in the order in which we look.
FIELDS = {
    "official": ("answer", "text", "ans"),
    "llava": ("text", "answer", "ans"),
    "opera": ("ans", "answer", "text"),
    "vcd": ("text", "answer", "ans"),
    "lmms-eval": ("answer", "text", "ans"),
    "repope": ("answer", "response", "text"),
    "dash-b": ("response", "answer", "text"),
    "r-bench": ("text", "answer", "ans"),
}
RULES = tuple(FIELDS)
LITTLE = 0.00001  # in R-Bench's denominators


@dataclass
class Counts:
    """What a rule makes of question and answer pairs."""

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0
    said_yes: int = 0
    other: int = 0
    unanswered: int = 0  #: of those the rule leaves out altogether

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


def check_rule(rule: str) -> None:
    """Raise ValueError for a rule that there is not."""
    if rule not in FIELDS:
        raise ValueError(f"POPE has no rule {rule!r}: choose one of {', '.join(RULES)}.")


#: A yes or a no that a reader would see, whether the rule does or not.
_YES, _NO = re.compile(r"\byes\b", re.IGNORECASE), re.compile(r"\b(?:no|not)\b|n['’]t\b", re.IGNORECASE)


def near_answers(texts: Sequence[str], rule: str) -> list[str]:
    """What the rule makes of answers that are no plain yes or no."""
    if rule == "lmms-eval":
        odd = [text for text in texts if text.lower().strip() not in ("yes", "no")]
        return _told(odd, "are not exactly yes or no and count as wrong")
    neither = [text for text in texts if not _YES.search(text) and not _NO.search(text)]
    if rule in ("repope", "dash-b"):
        silent = [text for text in texts if said(text) is None]
        return _told(
            silent, "hold neither yes nor no and " + ("are left out" if rule == "repope" else "count as wrong")
        )
    if rule == "vcd":
        return _told(
            [text for text in neither if "yes" not in text.lower() and "no" not in text.lower()],
            "hold neither yes nor no and count as wrong",
        )
    unseen = [
        text for text in texts if _NO.search(text) and not _YES.search(text) and READERS.get(rule, says_yes)(text)
    ]
    return _told(neither, "hold neither yes nor no and count as yes") + _told(
        unseen, f"hold a no that the rule {rule} does not see, and count as yes"
    )


def _told(odd: Sequence[str], what: str) -> list[str]:
    return [f"{len(odd)} answers {what}, such as {odd[0][:60]!r}."] if odd else []


def _count_words(reads_yes: Callable[[str], bool]) -> Callable[[Sequence[Any], Sequence[str]], Counts]:
    def count(labels: Sequence[Any], texts: Sequence[str]) -> Counts:
        counts = Counts()
        answers = [reads_yes(text) for text in texts]
        for label, answer in zip(labels, answers, strict=False):
            counts.add(label != "no", answer)
        counts.said_yes = sum(answers)  # of all answers, as the programs do, not of the pairs
        return counts

    return count


def _count_vcd(labels: Sequence[Any], texts: Sequence[str]) -> Counts:
    """A label yes is met by "yes" anywhere in the text, a label no by "no" anywhere; other labels are unknown."""
    counts = Counts()
    for label, text in zip(labels, texts, strict=False):
        asked, said = str(label).lower().strip(), text.lower().strip()
        if asked in ("yes", "no"):
            counts.add(asked == "yes", "yes" in said if asked == "yes" else "no" not in said)
        else:
            counts.other += 1
    counts.said_yes = counts.tp + counts.fp
    return counts


def _count_lmms(labels: Sequence[Any], texts: Sequence[str]) -> Counts:
    """The whole answer has to be yes or no; anything else is wrong and in none of the four counts."""
    counts = Counts()
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


def said(text: str) -> str | None:
    """The rule of RePOPE and DASH-B: yes where that is anywhere in the lower-cased text, else no, else None."""
    lower = text.lower()
    return "yes" if "yes" in lower else "no" if "no" in lower else None


def _count_repope(labels: Sequence[Any], texts: Sequence[str]) -> Counts:
    """What says neither, or has no such label, is counted nowhere."""
    counts = Counts()
    for label, text in zip(labels, texts, strict=False):
        answer = said(text)
        if answer is None or label not in ("yes", "no"):
            counts.unanswered += 1
        else:
            counts.add(label == "yes", answer == "yes")
    counts.said_yes = counts.tp + counts.fp
    return counts


def _count_dash(labels: Sequence[Any], texts: Sequence[str]) -> Counts:
    """What says neither is wrong, whichever the label."""
    counts = Counts()
    for label, text in zip(labels, texts, strict=False):
        answer = said(text)
        counts.add(label == "yes", answer == "yes" if label == "yes" else answer != "no")
        counts.said_yes += answer == "yes"
    return counts


def _count_r_bench(labels: Sequence[Any], texts: Sequence[str]) -> Counts:
    """POPE's reader; a label is no where it holds that word, in either case."""
    return _count_words(says_yes)(["no" if label and "no" in str(label).lower() else "yes" for label in labels], texts)


READERS = {"official": says_yes, "llava": says_yes, "opera": _says_yes_opera}
COUNTERS: dict[str, Callable[[Sequence[Any], Sequence[str]], Counts]] = {
    **{rule: _count_words(reads_yes) for rule, reads_yes in READERS.items()},
    "vcd": _count_vcd,
    "lmms-eval": _count_lmms,
    "repope": _count_repope,
    "dash-b": _count_dash,
    "r-bench": _count_r_bench,
}
