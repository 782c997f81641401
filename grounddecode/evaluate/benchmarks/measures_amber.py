"""AMBER's numbers in percent, as its program prints them, and the counts behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.benchmarks.base import LAB_DATA
from grounddecode.evaluate.benchmarks.measure import Record, Row, Scoring
from grounddecode.evaluate.data.items import AMBER_METRICS, AMBER_RELATION, AMBER_SAFE, Item
from grounddecode.evaluate.intervals import Floats, divide, harmonic
from grounddecode.evaluate.language.similarity import similarity
from grounddecode.evaluate.scoring import amber
from grounddecode.evaluate.scoring.amber_answers import parse_answer
from grounddecode.evaluate.scoring.amber_files import read_relation
from grounddecode.evaluate.scoring.amber_nouns import NounReader


class AmberGenerative:
    """Descriptions: invented and covered objects."""

    captions = True
    directions: Mapping[str, bool | None] = {"chair": False, "cover": True, "hal": False, "cog": False, "words": None}

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        data, responses = _numbered(records, scoring)
        same = similarity(scoring.amber_similarity)
        found = amber.score(data, responses, "g", same)
        reader = NounReader(data.words, found["tagger"])
        rows = []
        for record in records:
            nouns = reader.nouns(record["response"])
            invented, covered, thought = amber.judge(nouns, record, data, same)
            rows.append(
                {
                    "n": 1.0,
                    "nouns": len(nouns),
                    "invented": invented,
                    "honest": float(invented == 0),
                    "truth": len(record["truth"]),
                    "covered": covered,
                    "expected": len(record["hallu"]),
                    "thought": thought,
                    "words": len(record["response"].split()),
                }
            )
        told = {key: found[key] for key in ("similarity", "tagger", "official", "warnings")}
        words = sum(row["words"] for row in rows)
        return {**found["generative"], **told, "words": words / len(rows) if rows else None}, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        return {
            "chair": 100 * divide(sums["invented"], sums["nouns"]),
            "cover": 100 * divide(sums["covered"], sums["truth"]),
            "hal": 100 - 100 * divide(sums["honest"], sums["n"]),
            "cog": 100 * divide(sums["thought"], sums["expected"]),
            "words": divide(sums["words"], sums["n"]),
        }


class AmberDiscriminative:
    """Yes/no questions; "no" is the positive class, and free text becomes Yes or No by `amber_answers.PARSING_RULE`."""

    captions = False
    directions: Mapping[str, bool | None] = {
        "accuracy": True,
        "precision": True,
        "recall": True,
        "f1": True,
        "yes_ratio": None,
    }

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        data, responses = _numbered(records, scoring)
        found = amber.score(data, responses, "d", answers="parsed")
        rows = [self._row(record) for record in records]
        total = found["discriminative"].pop("total")
        told = {"answers_rule": found["answers_rule"], "warnings": found["warnings"]}
        yes = sum(row["yes"] for row in rows)
        yes_ratio = 100 * yes / len(rows) if rows else None
        return {**total, "yes_ratio": yes_ratio, "dimensions": found["discriminative"], **told}, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        precision = 100 * divide(sums["said_right"], sums["said_no"])
        recall = 100 * divide(sums["said_right"], sums["no"])
        return {
            "accuracy": 100 * divide(sums["right"], sums["n"]),
            "precision": precision,
            "recall": recall,
            "f1": harmonic(precision, recall),
            "yes_ratio": 100 * divide(sums["yes"], sums["n"]),
        }

    @staticmethod
    def _row(record: Record) -> Row:
        said, no = parse_answer(record["response"]), record["truth"] != "yes"
        return {
            "n": 1.0,
            "no": float(no),
            "right": float(said == ("No" if no else "Yes")),
            "yes": float(said == "Yes"),
            "said_no": float(said == "No"),
            "said_right": float(said == "No" and no),
        }


def _numbered(records: Sequence[Record], scoring: Scoring) -> tuple[amber.AmberData, list[dict[str, Any]]]:
    """The annotations that the records carry, numbered as the scorer wants them, and the responses."""
    annotations = [{"id": at, **_annotation(record)} for at, record in enumerate(records, 1)]
    responses = [{"id": at, "response": record["response"]} for at, record in enumerate(records, 1)]
    return replace(_words(scoring.data), annotations=annotations), responses


def _annotation(record: Record) -> dict[str, Any]:
    return {key: record[key] for key in ("type", "truth", "hallu") if key in record}


@lru_cache(maxsize=4)
def _words(data: str) -> amber.AmberData:
    """The closed list of words: the lab's own, or AMBER's files."""
    if data == LAB_DATA:
        from grounddecode.evaluate.benchmarks.drawn import amber_data

        return amber_data()
    root = Path(data)
    relation = read_relation(_place(AMBER_RELATION, root))
    safe = frozenset(json_lines.read_text(_place(AMBER_SAFE, root)).split("\n"))
    metrics = AMBER_METRICS.find(root)
    return amber.AmberData([], relation, safe, amber.counters(metrics) if metrics is not None else {})


def _place(item: Item, root: Path) -> Path:
    found = item.find(root)
    if found is None:
        raise ValueError(f"{root / item.places[0]} is missing: see `grounddecode data check amber --root {root}`")
    return found
