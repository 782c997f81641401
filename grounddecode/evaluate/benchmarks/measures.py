"""What is measured on each benchmark: the scorer's numbers, the counts behind them, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grounddecode.evaluate.benchmarks.measure import Measure, Record, Row, Scoring
from grounddecode.evaluate.benchmarks.measures_amber import AmberDiscriminative, AmberGenerative
from grounddecode.evaluate.benchmarks.measures_mme import Mme
from grounddecode.evaluate.intervals import Floats, divide, harmonic
from grounddecode.evaluate.scoring import chair, pope


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
        if scoring.drop_unfinished:
            shortened = sum(bool(record.get("shortened")) for record in records)
            result.summary.update({"drop_unfinished": True, "n_shortened": shortened})
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


_MEASURES: dict[str, Measure] = {
    "pope": Pope(),
    "chair": Chair(),
    "amber-generative": AmberGenerative(),
    "amber-discriminative": AmberDiscriminative(),
    "mme": Mme(),
}


def measure_of(benchmark: str, split: str) -> Measure:
    """The measure of a part of a benchmark."""
    return _MEASURES.get(f"{benchmark}-{split}") or _MEASURES[benchmark]
