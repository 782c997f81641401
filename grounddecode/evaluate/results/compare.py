"""Methods and controls of runs side by side: is a method better than saying less, and not only than greedy?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grounddecode.evaluate import ids
from grounddecode.evaluate.benchmarks.base import Column, Measure
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.benchmarks.table import measure_of, title_of
from grounddecode.evaluate.folder.places import data_folder
from grounddecode.evaluate.folder.run_file import RunFile
from grounddecode.evaluate.folder.store import Record, RunFolder
from grounddecode.evaluate.results.held import held, rules_of
from grounddecode.evaluate.results.results import (
    BASELINES,
    SAMPLED,
    Entry,
    Part,
    as_scored,
    by_part,
    few,
    group,
    measured,
)
from grounddecode.evaluate.results.tables import Cell, Comparison, Row, Table, small_print
from grounddecode.evaluate.run.recipe import made_by
from grounddecode.evaluate.sample import LAB_DATA
from grounddecode.registry import GREEDY

__all__ = ["Comparison", "compare", "tables_of"]
Block = Mapping[str, Any]
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
class _Shown:
    """A method under the name it has in the tables, with its numbers by part."""

    label: str
    method: str
    blocks: Mapping[Part, Block]


@dataclass(frozen=True)
class _Run:
    """A run folder that is compared with others."""

    folder: Path
    name: str
    about: RunFile
    records: list[Record]


def tables_of(metrics: Mapping[str, Any]) -> Comparison:
    """Tables of one run, drawn from its metrics as `bench`, `merge` and `rescore` give them: nothing is scored."""
    run, results = metrics["run"], metrics["results"]
    shown = [_Shown(name, name, by_part(results[name])) for name in run["methods"] if name in results]
    state = unfinished(run, run["n_answers"] + run["n_failed"])
    return _drawn(shown, _ended([run]), [state] if state else [])


def compare(
    runs: Sequence[Path | str], benchmarks: Sequence[str] | None = None, data: Path | None = None
) -> Comparison:
    """Tables of what runs hold: one for each benchmark and split, one row for each method and control.

    Everything is scored anew from the stored answers, by the rules of the first run. A method is compared with greedy
    of its own run, else with greedy of the first run of the same model, on the samples that both answered. The verdict
    names every number that is told apart from greedy's. The controls: for captions, greedy's cut to the method's
    length; for answers, sampling with the plausibility cut, where a run has it.

    Args:
        runs: run folders.
        benchmarks: these only; None: all that the runs hold.
        data: where the data are now; None: where they were. Few rules read them again.

    Raises:
        ValueError: no run folder, none of the benchmarks in it, or data that are needed and not there.
    """
    if not runs:
        raise ValueError("there is nothing to compare: give at least one run folder")
    stored = [RunFolder(run).stored_run() for run in runs]
    opened = [
        _Run(Path(folder), name, about, RunFolder(folder).records())
        for folder, name, about in zip(runs, names_of(runs), stored, strict=True)
    ]
    scoring = rules_of(runs[0], stored[0], data)
    entries = _entries(opened, scoring, benchmarks, data)
    blocks = measured(entries, scoring)
    shown = [_Shown(one.label, one.method, blocks[one.label]) for one in entries]
    return _drawn(shown, _ended(stored), _states(opened))


def _ended(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of the methods that a model has refused, and why."""
    return [Row(name, {}, sign=f"refused: {why}") for run in runs for name, why in run.get("refused", {}).items()]


def _states(runs: Sequence[_Run]) -> list[str]:
    """What a reader of runs must know that are not finished."""
    ended = [one.about.get("refused", {}) for one in runs]
    counts = [sum(r["method"] not in out for r in one.records) for one, out in zip(runs, ended, strict=True)]
    told = [(one.name, unfinished(one.about, count)) for one, count in zip(runs, counts, strict=True)]
    return [f"{name}: {state}" if len(runs) > 1 else state for name, state in told if state]


def unfinished(run: Mapping[str, Any], answers: int) -> str:
    """That a run is not finished, with so many answers of methods that were not refused; else nothing."""
    wanted = run["n_samples"] * (len(run["methods"]) - len(run.get("refused", {})))
    return "" if answers >= wanted else f"The run is not finished: {answers} of {wanted} answers are in."


def _drawn(shown: Sequence[_Shown], ended: Sequence[Row], states: Sequence[str]) -> Comparison:
    parts = dict.fromkeys(part for one in shown for part in one.blocks)
    return Comparison([_table(part, [one for one in shown if part in one.blocks], ended, states) for part in parts])


def _entries(
    runs: Sequence[_Run], scoring: Scoring, benchmarks: Sequence[str] | None, moved: Path | None
) -> list[Entry]:
    """The methods of all runs with their answers to some benchmarks."""
    known = dict.fromkeys(record["benchmark"] for run in runs for record in run.records)
    chosen = [name for name in known if benchmarks is None or name in benchmarks]
    if not known:
        refused = [f"{name} was refused: {why}" for run in runs for name, why in run.about.get("refused", {}).items()]
        raise ValueError("; ".join(["the runs hold no answers, so there is nothing to compare", *refused]))
    if not chosen:
        raise ValueError(f"the runs hold {', '.join(known)}, not {', '.join(benchmarks or ())}: choose from those")
    found = []
    for at, run in enumerate(runs):
        root = data_folder(run.folder, run.about, moved)
        wanted = held((r for r in run.records if r["benchmark"] in chosen), run.about, scoring.chair_flavour, root)
        found += [(at, method, parts, root) for method, parts in group(as_scored(wanted, scoring)).items()]
    names = [method for _, method, *_ in found]
    return [
        Entry(
            label_of(method, runs[at].name, names.count(method)),
            method,
            parts,
            at,
            made_by(runs[at].about),
            LAB_DATA if root is None else str(root),
        )
        for at, method, parts, root in found
    ]


def names_of(runs: Sequence[Path | str]) -> list[str]:
    """What run folders are called: by as many last parts of their paths as tell them apart; no two are equal."""
    parts = [Path(run).parts for run in runs]
    most = max(map(len, parts), default=0)
    ends = ([str(Path(*one[-count:])) for one in parts] for count in range(1, most + 1))
    return ids.unique(next((names for names in ends if len(set(names)) == len(set(parts))), map(str, runs)))


def label_of(method: str, run: str, times: int) -> str:
    """What a method is called in tables: with the name of its run, see `names_of`, where several (`times`) have it."""
    return method if times == 1 else f"{method} ({run})"


def _table(part: Part, shown: Sequence[_Shown], ended: Sequence[Row], states: Sequence[str]) -> Table:
    measure, title = measure_of(*part), title_of(*part)
    blocks = [one.blocks[part] for one in shown]
    rows = [row for one in shown for row in _rows(one, measure, one.blocks[part])]
    lacking = [name for name in BASELINES if all(one.method != name for one in shown)]
    notes = _notes(title, lacking, min(filter(None, (found.get("n_pictures", 0) for found in blocks)), default=0))
    notes = (*states, *(f"{title}: {told}." for told in _lesser(shown, part)), *notes)
    return Table(*part, _caption(title, blocks), (*measure.columns, *COST), [*rows, *ended], notes)


def _lesser(shown: Sequence[_Shown], part: Part) -> Iterator[str]:
    """Which rows rest on fewer samples than others, or are not compared with a greedy that is there."""
    blocks = {one.label: one.blocks[part] for one in shown}
    most = max(found["n"] + found["n_failed"] for found in blocks.values())
    for label, found in blocks.items():
        if found["n"] < most:
            failed = f", {found['n_failed']} failed" if found["n_failed"] else ""
            yield f"{label} rests on {found['n']} of {most} samples{failed}"
    greedy = any(one.method == GREEDY for one in shown)
    versus = BASELINES[GREEDY]
    for one in shown:
        found = blocks[one.label]
        if one.method == GREEDY or not greedy or not found["n"]:
            continue
        if versus not in found:
            yield (
                f"{one.label} is not compared with greedy, which is of another model, engine or options here, or was "
                "asked other questions (picture, prompt, longest answer, what is true)"
            )
        elif (both := found.get(f"n_{versus}", found["n"])) < found["n"]:
            yield f"{one.label} is compared with greedy on the {both} samples that both answered"


def _rows(shown: _Shown, measure: Measure, numbers: Block) -> Iterator[Row]:
    """A method's row, and that of its control."""
    yield _row(shown.label, measure, {**numbers, **numbers["cost"]})
    if "control" in numbers and shown.method != SAMPLED:
        yield _control_row(shown.label, measure, numbers)


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


def _caption(title: str, blocks: Sequence[Block]) -> str:
    n, numbers = max(found["n"] for found in blocks), blocks[0]
    rules = [str(numbers[key]) for key in ("rule", "flavour", "similarity", "tagger") if key in numbers]
    told = f"{title}, {n} samples{', rule ' + ' '.join(rules) if rules else ''}"
    if not numbers.get("drop_unfinished"):
        return told
    shortened = sum(found["n_shortened"] for found in blocks)
    return f"{told}, the unfinished last sentence of {shortened} cut captions left out"


def _notes(title: str, lacking: Sequence[str], pictures: int) -> tuple[str, ...]:
    notes = [LEGEND, *(f"{title}: {told}" for told in few(pictures) if pictures)]
    if lacking:
        notes.append(f"Not measured, though a comparison needs it: {', '.join(lacking)}.")
    return tuple(notes)
