"""The bench: a model, methods and benchmarks in; a run folder and one object of metrics out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grounddecode.engines.base import Engine


@dataclass(frozen=True)
class Progress:
    """How far a run is. `done` and `total` count answers of all methods, those of an earlier start included."""

    done: int
    total: int
    failed: int
    method: str
    benchmark: str
    note: str = ""


def bench(
    model: str,
    out: Path | str,
    *,
    engine: str = "hf",
    methods: Sequence[str] = ("greedy",),
    benchmarks: Sequence[str] = ("pope", "chair"),
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    data: Path | str | None = None,
    shard: str | None = None,
    max_new_tokens: int | None = None,
    pope_rule: str = "official",
    chair_flavour: str = "pattern",
    resamples: int = 1000,
    engine_options: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    opened: Engine | None = None,
) -> dict[str, Any]:
    """Answer every sample of the benchmarks with every method, score the answers, and write a run folder."""
    raise RuntimeError("the bench is being built")


def merge(runs: Sequence[Path | str], out: Path | str) -> dict[str, Any]:
    """One run folder out of the shards of one run; its metrics."""
    raise RuntimeError("the bench is being built")


def rescore(
    run: Path | str, *, pope_rule: str | None = None, chair_flavour: str | None = None, resamples: int | None = None
) -> dict[str, Any]:
    """Metrics of a run folder from its stored answers, without an engine; rewrites metrics.json."""
    raise RuntimeError("the bench is being built")
