"""What a run is to do, checked before anything heavy is opened; a stored run is continued, and may grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from grounddecode.evaluate.benchmarks.table import benchmark_of, load
from grounddecode.evaluate.folder.run_file import RunFile, Stage
from grounddecode.evaluate.run.batches import Unit, batches, shard_of, units
from grounddecode.evaluate.run.provenance import calibration, weights
from grounddecode.evaluate.run.recipe import Recipe, lasting, refuse_others
from grounddecode.evaluate.sample import Sample, fingerprint
from grounddecode.registry import Plan, plans

#: Settings in which a run may be extended: it keeps what it has, and answers what is new.
_GROWING = ("methods", "benchmarks", "limit", "plans", "questions")


@dataclass(frozen=True)
class Task:
    """A checked run.

    Attributes:
        recipe: of the whole run, what a stored one has included.
        settings: what the answers depend on.
        plans: all of the run.  asked: those that are answered now.
        samples: all of the run.
        stages: how large the run was before it was extended, first to last.
    """

    recipe: Recipe
    settings: dict[str, Any]
    plans: list[Plan]
    asked: list[Plan]
    samples: list[Sample]
    stages: list[Stage]

    @property
    def parts(self) -> list[str]:
        """Parts of benchmarks, in order."""
        return list(dict.fromkeys(sample.sample_id.rpartition("/")[0] for sample in self.samples))

    def groups(self) -> list[list[Unit]]:
        """Batches. What an extension has added stands behind what was there: the old batches stay as they were."""
        found: list[list[Unit]] = []
        before: set[str] = set()
        for samples in (*map(self._at, self.stages), self.samples):
            new = [sample for sample in samples if sample.sample_id not in before]
            before |= {sample.sample_id for sample in new}
            found += batches(units(new), self.recipe.batch_size)
        return found

    def _at(self, stage: Stage) -> list[Sample]:
        return _samples(_sized(self.recipe, stage), None)


def task_of(recipe: Recipe, folder: str, stored: RunFile | None) -> Task:
    """The task of a recipe, in a folder that may hold a run already.

    Raises:
        ValueError: something that cannot be used, or a stored run of other settings.
    """
    if stored is not None and isinstance(stored["settings"]["questions"], list):
        raise ValueError(f"{folder!r} holds the merged shards of a run, which is not continued: give another --out")
    named = [plan.name for plan in plans(recipe.methods)]
    recipe = replace(recipe, methods=tuple(named)) if stored is None else _grown(recipe, named, folder, stored)
    chosen = plans(recipe.methods)
    settings = recipe.settings()
    measured = calibration(recipe.model, recipe.engine_options.get("calibration"))
    settings |= {} if measured is None else {"calibration": measured}
    settings |= {"plans": {plan.name: plan.to_dict() for plan in chosen}, "weights": weights(recipe.model)}
    if stored is not None:
        _refuse_others(folder, stored, settings)
    samples = _samples(recipe, stored["chair_flavour"] if stored is not None else None)
    settings["questions"] = fingerprint(samples)
    stages = [] if stored is None else _stages(folder, stored, recipe, samples, settings)
    ended = {} if stored is None else stored.get("refused", {})
    asked = [plan for plan in chosen if plan.name in named or plan.name not in ended]
    return Task(recipe, settings, chosen, asked, samples, stages)


def _grown(recipe: Recipe, named: list[str], folder: str, stored: RunFile) -> Recipe:
    """The recipe with what the stored run has beside it. Raises ValueError for a smaller limit."""
    limit = stored["settings"]["limit"]
    if recipe.limit is not None and (limit is None or recipe.limit < limit):
        refuse_others(folder, {"limit": limit}, {"limit": recipe.limit})
    had, before = list(map(benchmark_of, stored["parts"])), set(stored["settings"]["benchmarks"])
    if set(had) != before:  # a shard may hold none of a benchmark, and does not say where it stood
        had = [name for name in recipe.benchmarks if name in before] + sorted(before - set(recipe.benchmarks))
    return replace(
        recipe,
        methods=tuple(dict.fromkeys([*stored["methods"], *named])),
        benchmarks=tuple(dict.fromkeys([*had, *recipe.benchmarks])),
    )


def _refuse_others(folder: str, stored: RunFile, wanted: Mapping[str, Any]) -> None:
    """Nothing, where the stored run can go on with the wanted settings."""
    held: dict[str, Any] = {**stored["settings"]}
    held["engine_options"] = lasting(held["engine_options"])
    fixed = [{key: value for key, value in one.items() if key not in _GROWING} for one in (held, wanted)]
    refuse_others(folder, *fixed)
    plans = {name: wanted["plans"][name] for name in held["plans"]}
    refuse_others(folder, {"plans": held["plans"]}, {"plans": plans})


def _stages(
    folder: str, stored: RunFile, recipe: Recipe, samples: list[Sample], settings: Mapping[str, Any]
) -> list[Stage]:
    """The sizes that the run had before. Raises ValueError where what was asked before is not part of the samples."""
    before, stages = stored["settings"], list(stored.get("stages", []))
    if before["limit"] == recipe.limit and set(before["benchmarks"]) == set(recipe.benchmarks):
        refuse_others(folder, {"questions": before["questions"]}, {"questions": settings["questions"]})
        return stages
    last: Stage = {
        "limit": before["limit"],
        "benchmarks": [name for name in recipe.benchmarks if name in before["benchmarks"]],
        "questions": str(before["questions"]),
    }
    asked = _samples(_sized(recipe, last), None)
    refuse_others(folder, {"questions": before["questions"]}, {"questions": fingerprint(asked)})
    if not {sample.sample_id for sample in asked} <= {sample.sample_id for sample in samples}:
        raise ValueError(
            f"{folder!r} holds shard {recipe.shard} of a smaller run, whose pictures other shards of the larger one "
            "have: give another --out"
        )
    return [*stages, last]


def _sized(recipe: Recipe, stage: Stage) -> Recipe:
    return replace(recipe, limit=stage["limit"], benchmarks=tuple(stage["benchmarks"]))


def _samples(recipe: Recipe, flavour: str | None) -> list[Sample]:
    samples = shard_of(load(recipe.benchmarks, recipe.wanted(flavour)), recipe.shard)
    if not samples:
        raise ValueError(f"shard {recipe.shard} holds no sample: give fewer shards")
    return samples
