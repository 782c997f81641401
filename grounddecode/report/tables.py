"""Result tables of a run as text cells, with the paired difference from greedy beside each number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grounddecode.evaluate.plans import GREEDY
from grounddecode.evaluate.pope_questions import STRATEGIES

Results = Mapping[str, Mapping[str, Any]]

#: Numbers of a caption table and their headings; shares are shown as percentages, the others as they are.
CAPTIONS = {
    "chair_s": "CHAIR_s %",
    "chair_i": "CHAIR_i %",
    "chair_i_unique": "unique\nCHAIR_i %",
    "recall": "recall %",
    "f1": "F1 %",
    "repetition_rate": "repetition %",
    "words": "words",
}
QUESTIONS = {"accuracy": "accuracy %", "f1": "F1 %", "yes_ratio": "yes %"}
AS_THEY_ARE = ("words",)
ALSO = "*"


@dataclass(frozen=True)
class Cell:
    """A number as text, its interval in small print, and "better", "worse" or "" (like greedy for all we know)."""

    text: str
    detail: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Table:
    """A caption, column names (the first one is the method's; a line end breaks) and one row of cells a method."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def tables(results: Results) -> list[Table]:
    """The tables of what a run has measured: captions, questions, cost."""
    return [table for table in (_captions(results), _questions(results), _cost(results)) if table.rows]


def _captions(results: Results) -> Table:
    rows: list[list[Cell]] = []
    count = 0
    for method, block in _having(results, "chair"):
        count = max(count, block["n"])
        rows.append([Cell(method), *(_cell(block, name) for name in CAPTIONS)])
        if "control" in block and _differs(block["control"].get("words"), results.get(GREEDY, {}).get("chair", {})):
            control = block["control"]
            rows.append([Cell(f"greedy, as short as {method}"), *(Cell(_number(control.get(n), n)) for n in CAPTIONS)])
    caption = (
        f"CHAIR on {count} pictures: how many captions (s) and mentions (i) hallucinate; lower is better. Small print: "
        f"greedy's 95 % interval, then the difference from greedy and its paired interval. {ALSO} also told apart from "
        "greedy captions cut to the same number of words."
    )
    return Table(caption, ("method", *CAPTIONS.values()), rows)


def _questions(results: Results) -> Table:
    """All splits in one table, so that a method's row shows random beside adversarial."""
    found = _having(results, "pope")
    met = dict.fromkeys(split for _, block in found for split in block)
    splits = sorted(met, key=lambda split: (*STRATEGIES, split).index(split))
    count = max((part["n"] for _, block in found for part in block.values()), default=0)
    rows = [
        [Cell(method), *(_cell(block.get(split, {}), name) for split in splits for name in QUESTIONS)]
        for method, block in found
    ]
    headings = [f"{split}\n{heading}" for split in splits for heading in QUESTIONS.values()]
    caption = f"POPE, {count} yes/no questions of each kind. More accuracy bought with fewer answers of yes is a shift."
    return Table(caption, ("method", *headings), rows)


def _cost(results: Results) -> Table:
    rows = []
    for method, cost in _having(results, "cost"):
        ratio, peak = cost.get("tokens_per_second_ratio"), cost.get("peak_memory_mib")
        rows.append(
            [
                Cell(method),
                Cell(_plain(cost.get("tokens_per_second"), 0)),
                Cell("-" if ratio is None else f"{ratio:.2f}x"),
                Cell(_plain(peak, 0)),
            ]
        )
    return Table("Cost.", ("method", "tokens/s", "speed\nbeside greedy", "peak memory\nMiB"), rows)


def _having(results: Results, benchmark: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(method, found[benchmark]) for method, found in results.items() if benchmark in found]


def _differs(words: float | None, greedy: Mapping[str, Any]) -> bool:
    """Whether a control was cut at all: shown only then."""
    whole = greedy.get("words")
    return words is not None and whole is not None and abs(words - whole) > 0.01 * whole


def _cell(block: Mapping[str, Any], name: str) -> Cell:
    text = _number(block.get(name), name)
    against = block.get("vs_greedy", {}).get(name)
    if against is None:
        low, high = block.get("ci", {}).get(name, (None, None))
        return Cell(text, "" if low is None else f"[{_number(low, name)}, {_number(high, name)}]")
    low, high = against["ci"]
    detail = f"{_signed(against['difference'], name)}\n[{_signed(low, name)}, {_signed(high, name)}]"
    matched = block.get("vs_control", {}).get(name, {}).get("verdict", "")
    also = ALSO if against["verdict"] and matched == against["verdict"] else ""
    return Cell(text + also, detail, against["verdict"])


def _number(value: float | None, name: str) -> str:
    return _plain(value if name in AS_THEY_ARE or value is None else 100 * value, 1)


def _signed(value: float | None, name: str) -> str:
    if value is None:
        return "-"
    shown = f"{value if name in AS_THEY_ARE else 100 * value:+.1f}"
    return "0.0" if float(shown) == 0 else shown


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
