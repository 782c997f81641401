"""Methods and controls of runs side by side: is a method better than saying less, and not only than greedy?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grounddecode.evaluate.benchmarks.base import Column, Measure, Record
from grounddecode.evaluate.benchmarks.rules import Scoring, scoring_of
from grounddecode.evaluate.benchmarks.table import measure_of, title_of
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.plan import GREEDY
from grounddecode.evaluate.results.results import (
    BASELINES,
    SAMPLED,
    Part,
    Scored,
    as_scored,
    baselines,
    block,
    cost,
    few,
    group,
    score,
)
from grounddecode.evaluate.results.tables import Cell, Comparison, Row, Table, small_print

__all__ = ["Comparison", "compare"]
COST = (
    Column("tokens_per_second_ratio", "tokens/s ratio", digits=2),
    Column("peak_memory_mib", "peak MiB", digits=0),
)
LEGEND = (
    "Under each number its 95 % interval, or the difference from greedy with its 95 % interval: paired, resampled by "
    "picture, [-] where the pictures give none. tokens/s ratio: its interval is that of the pictures, not of what else "
    "the machine was busy with."
)


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
    names every number that is told apart from greedy's. The controls: for captions, greedy's cut to the method's
    length; for answers, sampling with the plausibility cut, where a run has it.

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
    entries = _entries(runs, stored, scoring)
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


def _entries(runs: Sequence[Path | str], stored: Sequence[Mapping[str, Any]], scoring: Scoring) -> list[_Entry]:
    found = [
        (at, method, parts)
        for at, (folder, run) in enumerate(zip(runs, stored, strict=True))
        for method, parts in _in_order(group(as_scored(RunFolder(folder).records(), scoring)), run).items()
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
    measure, title = measure_of(benchmark, split), title_of(benchmark, split)
    scored = {entry.label: score(measure, entry.parts[part], scoring) for entry in entries if part in entry.parts}
    rows: list[Row] = []
    pictures: list[int] = []
    for entry in entries:
        if part not in entry.parts:
            continue
        bases = {name: _base(name, entry, entries, part) for name in baselines(entry.method)}
        others = {name: scored[base.label] for name, base in bases.items() if base is not None}
        numbers = block(measure, scored[entry.label], others, scoring)
        greedy = bases.get(GREEDY)
        paid = cost(entry.parts[part], greedy.parts[part] if greedy else entry.parts[part], scoring.resamples)
        rows.append(_row(entry.label, measure, {**numbers, **paid}))
        if "control" in numbers and entry.method != SAMPLED:
            rows.append(_control_row(entry.label, measure, numbers))
        pictures.append(numbers.get("n_pictures", 0))
    lacking = [name for name in BASELINES if all(entry.method != name for entry in entries if part in entry.parts)]
    notes = _notes(title, lacking, min(filter(None, pictures), default=0))
    return Table(benchmark, split, _caption(title, scored), (*measure.columns, *COST), rows, notes)


def _base(name: str, entry: _Entry, entries: Sequence[_Entry], part: Part) -> _Entry | None:
    """The entry that `entry` is compared with under a baseline's name."""
    same = [one for one in entries if one.method == name and one.model == entry.model and part in one.parts]
    return min(same, key=lambda one: (one.run != entry.run, one.run), default=None)


def _row(label: str, measure: Measure, numbers: Mapping[str, Any]) -> Row:
    versus, ci = numbers.get(BASELINES[GREEDY], {}), {**numbers.get("ci", {})}
    if versus and numbers["tokens_per_second_ratio_ci"] != [None, None]:  # greedy is as fast as itself
        ci["tokens_per_second_ratio"] = numbers["tokens_per_second_ratio_ci"]
    cells = {column.key: _cell(column.key, numbers, ci, versus) for column in (*measure.columns, *COST)}
    sign = _sign(measure, numbers)
    return Row(label, cells, sign=sign, notes={key: numbers[key] for key in ("n", "n_failed")})


def _control_row(label: str, measure: Measure, numbers: Mapping[str, Any]) -> Row:
    """The control's own numbers and how they differ from greedy's; its sign is how the method differs from it."""
    cells = {
        column.key: _cell(column.key, numbers["control"], {}, numbers["control_vs_greedy"])
        for column in measure.columns
    }
    first = next(column for column in measure.columns if column.key == measure.headlines[0])
    versus = Row("", {first.key: _cell(first.key, {}, {}, numbers["vs_control"])})
    return Row(f"greedy cut to {label}", cells, of=label, sign=f"{label} minus this: {small_print(versus, first)}")


def _cell(key: str, numbers: Mapping[str, Any], ci: Mapping[str, Any], versus: Mapping[str, Any]) -> Cell:
    found = versus.get(key, {})
    return Cell(numbers.get(key), ci.get(key), found.get("difference"), found.get("ci"), str(found.get("verdict", "")))


def _sign(measure: Measure, numbers: Mapping[str, Any]) -> str:
    """What the differences of a row are worth, in words: as its cells say, number by number."""
    greedy = numbers.get(BASELINES[GREEDY])
    if not greedy:
        return ""
    judged = [column for column in measure.columns if measure.directions.get(column.key) is not None]
    better, worse = ([c for c in judged if greedy[c.key]["verdict"] == said] for said in ("better", "worse"))
    if not better and not worse:
        return "= not told apart from greedy"
    if not better:
        plain = any(column.key == measure.headlines[0] for column in worse)
        return "- worse than greedy" if plain else f"- worse than greedy in {_headings(worse)}"
    gain = _gain(measure, better, numbers.get("vs_control") or numbers.get(BASELINES[SAMPLED]))
    return f"± {gain.removeprefix('+ ')}, but worse in {_headings(worse)}" if worse else gain


def _gain(measure: Measure, better: Sequence[Column], control: Mapping[str, Any] | None) -> str:
    """What is better than greedy's; better than the control is said only of what is better than greedy too."""
    first, *others = measure.headlines
    plain = any(column.key == first for column in better)  # the number that the benchmark is about
    if not control:
        return "better than greedy (no control)" if plain else f"better than greedy in {_headings(better)} (no control)"
    real = [column for column in better if control[column.key]["verdict"] == "better"]
    if not real:
        return "better than greedy only" if plain else f"better than greedy only, in {_headings(better)}"
    if not plain or all(column.key != first for column in real):
        return f"+ better than the control in {_headings(real)}"
    hollow = any(control[key]["verdict"] != "better" for key in others)
    return "better in repeated mentions only" if hollow else "+ better than the control"


def _headings(columns: Sequence[Column]) -> str:
    return ", ".join(column.heading for column in columns)


def _caption(title: str, scored: Mapping[str, Scored]) -> str:
    n = max((len(one.records) for one in scored.values()), default=0)
    numbers = next(iter(scored.values())).numbers
    rules = [str(numbers[key]) for key in ("rule", "flavour", "similarity", "tagger") if key in numbers]
    told = f"{title}, {n} samples{', rule ' + ' '.join(rules) if rules else ''}"
    if not numbers.get("drop_unfinished"):
        return told
    shortened = sum(one.numbers["n_shortened"] for one in scored.values())
    return f"{told}, the unfinished last sentence of {shortened} cut captions left out"


def _notes(title: str, lacking: Sequence[str], pictures: int) -> tuple[str, ...]:
    notes = [LEGEND, *(f"{title}: {told}" for told in few(pictures) if pictures)]
    if lacking:
        notes.append(f"Not measured, though a comparison needs it: {', '.join(lacking)}.")
    return tuple(notes)
