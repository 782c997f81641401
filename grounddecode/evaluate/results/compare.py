"""Methods and controls of runs side by side: is a method better than saying less, and not only than greedy?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grounddecode.evaluate import ids
from grounddecode.evaluate.benchmarks.base import Column, Measure, Record
from grounddecode.evaluate.benchmarks.rules import Scoring, scoring_of
from grounddecode.evaluate.benchmarks.table import measure_of, title_of
from grounddecode.evaluate.folder.store import RunFolder
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


def tables_of(metrics: Mapping[str, Any]) -> Comparison:
    """Tables of one run, drawn from its metrics as `bench`, `merge` and `rescore` give them: nothing is scored."""
    run, results = metrics["run"], metrics["results"]
    shown = [_Shown(name, name, by_part(results[name])) for name in run["methods"] if name in results]
    return _drawn(shown, _ended([run]))


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
    wanted = [_only(entry, benchmarks) for entry in entries]
    if not any(entry.parts for entry in wanted):
        known = ", ".join(dict.fromkeys(part[0] for entry in entries for part in entry.parts)) or "no answers"
        raise ValueError(f"the runs hold {known}, not {', '.join(benchmarks or ['any'])}: choose from those")
    blocks = measured(wanted, scoring)
    return _drawn([_Shown(one.label, one.method, blocks[one.label]) for one in wanted], _ended(stored))


def _only(entry: Entry, benchmarks: Sequence[str] | None) -> Entry:
    """The entry with the parts of some benchmarks alone."""
    return replace(
        entry,
        parts={part: found for part, found in entry.parts.items() if benchmarks is None or part[0] in benchmarks},
    )


def _ended(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of the methods that a model has refused, and why."""
    return [Row(name, {}, sign=f"refused: {why}") for run in runs for name, why in run.get("refused", {}).items()]


def _drawn(shown: Sequence[_Shown], ended: Sequence[Row]) -> Comparison:
    parts = dict.fromkeys(part for one in shown for part in one.blocks)
    return Comparison([_table(part, [one for one in shown if part in one.blocks], ended) for part in parts])


def _entries(runs: Sequence[Path | str], stored: Sequence[Mapping[str, Any]], scoring: Scoring) -> list[Entry]:
    found = [
        (at, method, parts)
        for at, (folder, run) in enumerate(zip(runs, stored, strict=True))
        for method, parts in _in_order(group(as_scored(RunFolder(folder).records(), scoring)), run).items()
    ]
    names, called = [method for _, method, _ in found], names_of(runs)
    return [
        Entry(
            label_of(method, called[at], names.count(method)),
            method,
            parts,
            at,
            str(stored[at]["settings"]["model"]),
        )
        for at, method, parts in found
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


def _table(part: Part, shown: Sequence[_Shown], ended: Sequence[Row]) -> Table:
    measure, title = measure_of(*part), title_of(*part)
    blocks = [one.blocks[part] for one in shown]
    rows = [row for one in shown for row in _rows(one, measure, one.blocks[part])]
    lacking = [name for name in BASELINES if all(one.method != name for one in shown)]
    notes = _notes(title, lacking, min(filter(None, (found.get("n_pictures", 0) for found in blocks)), default=0))
    return Table(*part, _caption(title, blocks), (*measure.columns, *COST), [*rows, *ended], notes)


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
