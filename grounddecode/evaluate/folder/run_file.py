"""What `run.json` and a line of `samples.jsonl` hold: the one schema by which both are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from grounddecode.evaluate.benchmarks.rules import scoring_of
from grounddecode.evaluate.benchmarks.table import BENCHMARKS, PARTS, benchmark_of, part_of
from grounddecode.evaluate.folder.schema import Between, Misfit, check
from grounddecode.evaluate.scoring.chair import FLAVOURS

Count = Annotated[int, Between(0, 10**9)]
Positive = Annotated[int, Between(1, 10**9)]
Amount = Annotated[float, Between(0, 1e15)]


class PlanFile(TypedDict):
    """A plan with every hyper-parameter resolved."""

    decoding: Mapping[str, Any]
    methods: list[Mapping[str, Any]]


class Stage(TypedDict):
    """How large a run was before it was extended, and what was asked then."""

    limit: Positive | None
    benchmarks: list[str]
    questions: str


class Settings(TypedDict):
    """What the answers of a run depend on."""

    model: str
    engine: str
    engine_options: Mapping[str, Any]
    calibration: NotRequired[str]
    methods: list[str]
    benchmarks: list[str]
    seed: int
    batch_size: Positive
    shard: str | None
    limit: Positive | None
    max_new_tokens: Positive | None
    split: NotRequired[str]
    ids: NotRequired[str]
    data: Literal["lab", "folder"]
    plans: Mapping[str, PlanFile]
    weights: str | None
    questions: str | list[str]


class ScoringFile(TypedDict):
    """By which rules a run was scored last."""

    pope_rule: NotRequired[str]
    chair_flavour: NotRequired[str]
    amber_similarity: NotRequired[str]
    resamples: NotRequired[int]
    drop_unfinished: NotRequired[bool]


class Session(TypedDict):
    """One start of a run; `seconds` is missing where it did not come to its end."""

    started: NotRequired[str]
    seconds: NotRequired[Amount]
    notes: NotRequired[list[str]]


class RunFile(TypedDict):
    """`run.json`. `data_beside`: the data folder as seen from the run folder. `refused`: why a row has ended."""

    format: int
    hash: str
    settings: Settings
    methods: list[str]
    data: str
    data_beside: NotRequired[str]
    chair_flavour: str
    engine: Mapping[str, Any]
    parts: list[str]
    n_samples: Count
    versions: NotRequired[Mapping[str, str]]
    hardware: NotRequired[Mapping[str, Any]]
    commit: NotRequired[Mapping[str, Any] | None]
    command: NotRequired[str]
    sessions: list[Session]
    scoring: NotRequired[ScoringFile]
    refused: NotRequired[Mapping[str, str]]
    stages: NotRequired[list[Stage]]


class _Asked(TypedDict):
    """What every line has."""

    sample_id: str
    benchmark: str
    split: str
    image_id: int | str
    image: str
    prompt: str
    max_new_tokens: NotRequired[Positive]
    method: str
    status: Literal["ok", "failed"]


class _Failed(_Asked):
    response: None
    error: str


class _Answered(_Asked):
    response: str
    n_tokens: Count
    seconds: Amount
    trace: NotRequired[Mapping[str, float]]
    batch: NotRequired[Positive]
    peak_memory_mib: NotRequired[Amount | None]
    warming_up: NotRequired[bool]
    same_as: NotRequired[str]


def checked(found: Any) -> RunFile:
    """`found`, which has the fields of a `run.json`.

    Raises:
        Misfit: it has not.
    """
    check(found, RunFile)
    run: RunFile = found
    return run


def check_run(found: object, path: Path | str) -> None:
    """Nothing where this is what a `run.json` of this version holds.

    Raises:
        ValueError: one sentence that names the file and the field.
    """
    try:
        _check_names(checked(found))
    except ValueError as error:
        raise ValueError(
            f"{path} is not of a run of this version ({error}): restore it or choose another folder"
        ) from None


def _check_names(run: RunFile) -> None:
    """That what the fields name is there, and is named in one way."""
    for part in run["parts"]:
        if part not in PARTS:
            raise Misfit(f"the field parts names {part!r}, which is no part of a benchmark")
    for name in run["settings"]["benchmarks"]:
        if name not in BENCHMARKS:
            raise Misfit(f"the field settings.benchmarks names {name!r}, which is no benchmark")
    if not set(map(benchmark_of, run["parts"])) <= set(run["settings"]["benchmarks"]):
        raise Misfit("the fields parts and settings.benchmarks name different benchmarks")
    if len(set(run["methods"])) != len(run["methods"]):
        raise Misfit("the field methods names a method twice")
    if set(run["settings"]["plans"]) != set(run["methods"]) or set(run["settings"]["methods"]) != set(run["methods"]):
        raise Misfit("the fields methods, settings.methods and settings.plans name different methods")
    if run["chair_flavour"] not in FLAVOURS:
        raise Misfit(f"the field chair_flavour is {run['chair_flavour']!r}, give one of {', '.join(FLAVOURS)}")
    try:
        scoring_of(run)
    except ValueError as error:
        raise Misfit(f"the field scoring: {error}") from None


def check_line(found: object, run: RunFile | None) -> None:
    """Nothing where this is a line of `samples.jsonl`, of that run where one is given.

    Raises:
        ValueError: what is wrong, with the name of the field.
    """
    line: dict[str, Any] = found if isinstance(found, dict) else {}
    check(found, _Answered if line.get("status") == "ok" else _Failed)
    part = part_of(line["benchmark"], line["split"])
    if part not in PARTS:
        raise Misfit(f"the fields benchmark and split name {part!r}, which is no part of a benchmark")
    if line["sample_id"].rpartition("/")[0] != part:
        raise Misfit(f"the field sample_id is {line['sample_id'][:40]!r}, give one that begins with {part}/")
    check(line, PARTS[part].facts)
    if run is None:
        return
    if line["method"] not in run["methods"]:
        raise Misfit(f"the field method is {line['method'][:40]!r}, which run.json does not list")
    if part not in run["parts"]:
        raise Misfit(f"the field sample_id is of {part}, which run.json does not list among its parts")
