"""What is measured on each benchmark: the scorer's numbers, the counts behind them, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from grounddecode.evaluate import chair, pope
from grounddecode.evaluate.stats import Floats, divide, harmonic

Record = Mapping[str, Any]
Row = dict[str, float]


@dataclass(frozen=True)
class Scoring:
    """By which rules answers are scored; changing them never needs an engine."""

    pope_rule: str = "official"
    chair_flavour: str = "pattern"
    resamples: int = 1000

    def __post_init__(self) -> None:
        if self.pope_rule not in pope.RULES:
            raise ValueError(f"POPE has no rule {self.pope_rule!r}: choose one of {', '.join(pope.RULES)}")
        if self.chair_flavour not in chair.FLAVOURS:
            raise ValueError(f"CHAIR has no flavour {self.chair_flavour!r}: choose one of {', '.join(chair.FLAVOURS)}")
        if self.resamples < 1:
            raise ValueError(f"resamples is {self.resamples}: give at least 1")


def ground_truth_of(flavour: str) -> str:
    """The flavour whose words read the reference captions: published tables use those of `pattern`."""
    return chair.PATTERN if flavour == chair.PUBLISHED else flavour


class Measure(Protocol):
    """One benchmark's numbers. `directions` says of each ratio whether more is better; None: neither."""

    directions: Mapping[str, bool | None]
    captions: bool

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        """The scorer's own numbers, and one row of counts a record."""
        ...

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        """Sums of the rows to ratios, under the names of the scorer's numbers."""
        ...


class Pope:
    """Yes/no questions about objects."""

    captions = False
    directions: Mapping[str, bool | None] = {
        "accuracy": True,
        "f1": True,
        "balanced_accuracy": True,
        "precision": True,
        "recall": True,
        "yes_ratio": None,
    }

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        answers = [str(record["response"]) for record in records]
        block = pope.score(records, answers, scoring.pope_rule)
        rows = [self._row(record, answer, scoring.pope_rule) for record, answer in zip(records, answers, strict=True)]
        return block, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        tp, fp, tn, fn, n = (sums[name] for name in ("tp", "fp", "tn", "fn", "n"))
        precision, recall = divide(tp, tp + fp), divide(tp, tp + fn)
        return {
            "accuracy": divide(tp + tn, n),
            "f1": harmonic(precision, recall),
            "balanced_accuracy": (recall + divide(tn, tn + fp)) / 2,
            "precision": precision,
            "recall": recall,
            "yes_ratio": divide(sums["yes"], n),
        }

    @staticmethod
    def _row(record: Record, answer: str, rule: str) -> Row:
        one = pope.score([record], [answer], rule)
        return {name: one[name] for name in ("tp", "fp", "tn", "fn", "n")} | {"yes": one["yes_ratio"] or 0}


class Chair:
    """Captions, and which objects they name."""

    captions = True
    directions: Mapping[str, bool | None] = {
        "chair_s": False,
        "chair_i": False,
        "chair_i_unique": False,
        "recall": True,
        "precision": True,
        "f1": True,
        "words": None,
        "repetition_rate": False,
    }

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        captions = [{"image_id": record["image_id"], "caption": record["response"]} for record in records]
        truth = {record["image_id"]: record["truth"] for record in records}
        result = chair.score(captions, truth, scoring.chair_flavour)
        rows = [self._row(found, record) for found, record in zip(result.captions, records, strict=True)]
        words = sum(row["words"] for row in rows)
        return {**result.summary, "words": words / len(rows) if rows else None}, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        precision = divide(sums["found"], sums["distinct"])
        recall = divide(sums["found"], sums["truth"])
        return {
            "chair_s": divide(sums["with_invented"], sums["n"]),
            "chair_i": divide(sums["invented"], sums["mentions"]),
            "chair_i_unique": 1 - precision,
            "recall": recall,
            "precision": precision,
            "f1": harmonic(precision, recall),
            "words": divide(sums["words"], sums["n"]),
            "repetition_rate": divide(sums["repeated_grams"], sums["grams"]),
        }

    @staticmethod
    def _row(found: Mapping[str, Any], record: Record) -> Row:
        return {
            "n": 1,
            "with_invented": found["chair_s"],
            "mentions": len(found["objects"]),
            "invented": len(found["hallucinated"]),
            "found": found["n_found"],
            "distinct": found["n_distinct"],
            "truth": found["n_truth"],
            "grams": found["n_four_grams"],
            "repeated_grams": found["n_repeated_four_grams"],
            "words": len(str(record["response"]).split()),
        }


MEASURES: dict[str, Measure] = {"pope": Pope(), "chair": Chair()}
