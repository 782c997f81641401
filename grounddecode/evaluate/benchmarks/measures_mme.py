"""MME's numbers: accuracy of questions, and of pictures with both questions right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from grounddecode.evaluate.benchmarks.measure import Record, Row, Scoring
from grounddecode.evaluate.intervals import Floats, divide
from grounddecode.evaluate.scoring import mme


class Mme:
    """Two yes/no questions a picture. A picture with a failed question is left out whole."""

    captions = False
    directions: Mapping[str, bool | None] = {"score": True, "accuracy": True, "accuracy_plus": True, "yes_ratio": None}

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        asked = Counter(record["image_id"] for record in records)
        whole = [record for record in records if asked[record["image_id"]] == 2]
        whole.sort(key=lambda record: str(record["image_id"]))  # stable: the two questions of a picture stay in order
        task = str(records[0]["split"]) if records else "mme"
        found = mme.score({task: [(record["label"], record["response"]) for record in whole]})
        numbers = {**found["tasks"][task], "warnings": found["warnings"]}
        rows = _rows(records, whole)
        said_yes = sum(row["yes"] for row in rows)
        return {**numbers, "yes_ratio": said_yes / len(whole) if whole else None}, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        accuracy, plus = divide(sums["right"], sums["asked"]), divide(sums["both"], sums["pictures"])
        return {
            "score": 100 * accuracy + 100 * plus,
            "accuracy": accuracy,
            "accuracy_plus": plus,
            "yes_ratio": divide(sums["yes"], sums["asked"]),
        }


def _rows(records: Sequence[Record], whole: Sequence[Record]) -> list[Row]:
    """One row a record; what concerns a whole picture is split between its two."""
    right = Counter(r["image_id"] for r in whole if mme.read_answer(r["response"]) == r["label"])
    kept = {record["sample_id"] for record in whole}
    rows = []
    for record in records:
        answer, counts = mme.read_answer(record["response"]), record["sample_id"] in kept
        rows.append(
            {
                "asked": float(counts),
                "right": float(counts and answer == record["label"]),
                "yes": float(counts and answer == "yes"),
                "pictures": 0.5 * counts,
                "both": 0.5 * (counts and right[record["image_id"]] == 2),
            }
        )
    return rows
