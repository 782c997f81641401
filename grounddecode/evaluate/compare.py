"""Methods and controls of runs side by side: is a method better than saying less, and not only than greedy?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grounddecode.evaluate.columns import COST, Layout, layout
from grounddecode.evaluate.measure import Record, Scoring, scoring_of
from grounddecode.evaluate.measures import measure_of
from grounddecode.evaluate.metrics import BASELINES, SAMPLED, Part, Scored, baselines, block, cost, group, score
from grounddecode.evaluate.plans import GREEDY
from grounddecode.evaluate.store import RunFolder
from grounddecode.evaluate.tables import Cell, Comparison, Row, Table

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class _Entry:
    """One method of one run."""

    label: str
    method: str
    run: int
    model: str
    parts: Mapping[Part, list[Record]]


def compare(runs: Sequence[Path | str], benchmarks: Sequence[str] | None = None) -> Comparison:
    """Tables of what runs hold: one for each benchmark and split, one row for each method and control.

    Everything is scored anew from the stored answers, by the rules of the first run. A method is compared with greedy
    of its own run, else with greedy of the first run of the same model, on the samples that both answered. The verdict
    is about CHAIR_i and POPE's accuracy. The controls: for captions, greedy's cut to the method's length; for answers,
    sampling with the plausibility cut, where a run has it.

    Args:
        runs: run folders.
        benchmarks: these only; None: all that the runs hold.

    Raises:
        ValueError: no run folder, or none of the benchmarks in it.
    """
    if not runs:
        raise ValueError("there is nothing to compare: give at least one run folder")
    stored = [RunFolder(run).stored_run() for run in runs]
    scoring = scoring_of(stored[0])
    entries = _entries(runs, stored)
    parts = list(dict.fromkeys(part for entry in entries for part in entry.parts))
    wanted = [part for part in parts if benchmarks is None or part[0] in benchmarks]
    if not wanted:
        known = ", ".join(dict.fromkeys(benchmark for benchmark, _ in parts)) or "no answers"
        raise ValueError(f"the runs hold {known}, not {', '.join(benchmarks or ['any'])}: choose from those")
    ended = [Row(name, {}, sign=f"refused: {why}") for run in stored for name, why in run.get("refused", {}).items()]
    return Comparison([_with_rows(_table(part, entries, scoring), ended) for part in wanted])


def _with_rows(table: Table, rows: Sequence[Row]) -> Table:
    """The table with the methods that a model has refused, and why."""
    return replace(table, rows=[*table.rows, *rows])


def _entries(runs: Sequence[Path | str], stored: Sequence[Mapping[str, Any]]) -> list[_Entry]:
    found = [
        (at, method, parts)
        for at, (folder, run) in enumerate(zip(runs, stored, strict=True))
        for method, parts in _in_order(group(RunFolder(folder).records()), run).items()
    ]
    names = [method for _, method, _ in found]
    return [
        _Entry(
            method if names.count(method) == 1 else f"{method} ({Path(runs[at]).name})",
            method,
            at,
            str(stored[at]["settings"]["model"]),
            parts,
        )
        for at, method, parts in found
    ]


def _in_order(
    grouped: Mapping[str, dict[Part, list[Record]]], run: Mapping[str, Any]
) -> dict[str, dict[Part, list[Record]]]:
    """Methods and parts as the run was asked for them, not as they were answered."""
    order = {part: at for at, part in enumerate(run["parts"])}
    return {
        method: dict(sorted(grouped[method].items(), key=lambda item: order["-".join(filter(None, item[0]))]))
        for method in run["methods"]
        if method in grouped and method not in run.get("refused", {})
    }


def _table(part: Part, entries: Sequence[_Entry], scoring: Scoring) -> Table:
    benchmark, split = part
    measure, shown = measure_of(benchmark, split), layout(benchmark, split)
    scored = {entry.label: score(measure, entry.parts[part], scoring) for entry in entries if part in entry.parts}
    rows: list[Row] = []
    for entry in entries:
        if part not in entry.parts:
            continue
        bases = {name: _base(name, entry, entries, part) for name in baselines(entry.method)}
        others = {name: scored[base.label] for name, base in bases.items() if base is not None}
        numbers = block(measure, scored[entry.label], others, scoring)
        greedy = bases.get(GREEDY)
        paid = cost(entry.parts[part], greedy.parts[part] if greedy else entry.parts[part])
        rows.append(_row(entry.label, shown, {**numbers, **paid}))
        if "control" in numbers and entry.method != SAMPLED:
            rows.append(_control_row(entry.label, shown, numbers))
    n = max((len(one.records) for one in scored.values()), default=0)
    lacking = [name for name in BASELINES if all(entry.method != name for entry in entries if part in entry.parts)]
    return Table(benchmark, split, _caption(shown.title, n, scored, lacking), (*shown.columns, *COST), rows)


def _base(name: str, entry: _Entry, entries: Sequence[_Entry], part: Part) -> _Entry | None:
    """The entry that `entry` is compared with under a baseline's name."""
    same = [one for one in entries if one.method == name and one.model == entry.model and part in one.parts]
    return min(same, key=lambda one: (one.run != entry.run, one.run), default=None)


def _row(label: str, shown: Layout, numbers: Mapping[str, Any]) -> Row:
    versus, ci = numbers.get(BASELINES[GREEDY], {}), numbers.get("ci", {})
    cells = {column.key: _cell(column.key, numbers, ci, versus) for column in (*shown.columns, *COST)}
    return Row(label, cells, sign=_sign(shown, numbers), notes={key: numbers[key] for key in ("n", "n_failed")})


def _control_row(label: str, shown: Layout, numbers: Mapping[str, Any]) -> Row:
    """The control's own numbers, and how the method differs from them."""
    versus = numbers["vs_control"]
    cells = {column.key: _cell(column.key, numbers["control"], {}, versus) for column in shown.columns}
    return Row(f"greedy cut to {label}", cells, of=label)


def _cell(key: str, numbers: Mapping[str, Any], ci: Mapping[str, Any], versus: Mapping[str, Any]) -> Cell:
    found = versus.get(key, {})
    return Cell(numbers.get(key), ci.get(key), found.get("difference"), found.get("ci"), str(found.get("verdict", "")))


def _sign(shown: Layout, numbers: Mapping[str, Any]) -> str:
    """What a difference is worth, in words; better than the control is said only of what is better than greedy too."""
    greedy = numbers.get(BASELINES[GREEDY])
    if not greedy:
        return ""
    first, *others = shown.headlines
    control = numbers.get("vs_control") or numbers.get(BASELINES[SAMPLED])
    if greedy[first]["verdict"] != "better":
        return "- worse than greedy" if greedy[first]["verdict"] == "worse" else "= not told apart from greedy"
    if not control:
        return "better than greedy (no control)"
    if control[first]["verdict"] != "better":
        return "better than greedy only"
    hollow = any(control[key]["verdict"] != "better" for key in others)
    return "better in repeated mentions only" if hollow else "+ better than the control"


def _caption(title: str, n: int, scored: Mapping[str, Scored], lacking: Sequence[str]) -> str:
    numbers = next(iter(scored.values())).numbers
    rules = [str(numbers[key]) for key in ("rule", "flavour", "similarity", "tagger") if key in numbers]
    told = (
        f"{title}, {n} samples{', rule ' + ' '.join(rules) if rules else ''}. Under each number the difference from "
        "greedy (under a control: of its method from it), with 95 % intervals, paired, resampled by picture."
    )
    return told + (f" Not measured, though a comparison needs it: {', '.join(lacking)}." if lacking else "")
