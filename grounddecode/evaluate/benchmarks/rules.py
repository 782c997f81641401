"""By which rules answers are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from grounddecode.evaluate.intervals import MOST_RESAMPLES
from grounddecode.evaluate.language import similarity
from grounddecode.evaluate.sample import LAB_DATA
from grounddecode.evaluate.scoring import chair, pope


@dataclass(frozen=True)
class Scoring:
    """By which rules answers are scored; changing them never needs an engine."""

    pope_rule: str = "official"
    chair_flavour: str = "pattern"
    amber_similarity: str = "exact"
    resamples: int = 1000
    data: str = LAB_DATA  #: where the word lists of AMBER are
    drop_unfinished: bool = False  #: of CHAIR captions that were cut, see `grounddecode.evaluate.language.unfinished`

    def __post_init__(self) -> None:
        pope.check_rule(self.pope_rule)
        chair.check_flavour(self.chair_flavour)
        similarity.check(self.amber_similarity)
        if not 1 <= self.resamples <= MOST_RESAMPLES:
            raise ValueError(f"resamples is {self.resamples}: give a number from 1 to {MOST_RESAMPLES}")


def scoring_of(run: Mapping[str, Any]) -> Scoring:
    """The rules that a run was scored by last; for one that was stopped before, those of the data it holds.

    `data` is where the data were given: see `grounddecode.evaluate.results.held.rules_of` for where they are.
    """
    held = {"chair_flavour": run.get("chair_flavour", chair.PATTERN), **run.get("scoring", {})}
    known = {field.name for field in fields(Scoring)} & held.keys()
    return Scoring(**{name: held[name] for name in known} | {"data": run.get("data", LAB_DATA)})


def stored_rules(scoring: Scoring) -> dict[str, Any]:
    """The rules as a run folder keeps them: where the data are is another matter, which changes."""
    return {name: value for name, value in asdict(scoring).items() if name != "data"}


def ground_truth_of(flavour: str) -> str:
    """The flavour whose words read the reference captions: published tables use those of `pattern`."""
    return chair.PATTERN if flavour == chair.PUBLISHED else flavour
