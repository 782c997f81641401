"""One engine in this process: the plain way of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grounddecode.engines.base import open_engine
from grounddecode.evaluate.run.asking import Asker
from grounddecode.evaluate.run.batches import Unit
from grounddecode.evaluate.run.keeping import Keeping
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.evaluate.run.recipe import Recipe

if TYPE_CHECKING:
    from grounddecode.engines.base import Engine


@dataclass
class Alone:
    """An engine, and what a run asks of those who answer."""

    engine: Engine
    recipe: Recipe
    description: dict[str, Any]

    def session(self) -> dict[str, Any]:
        """What run.json says of this start."""
        return {**provenance(), "device": self.description.get("device")}

    def answer(self, keeping: Keeping, groups: Sequence[Sequence[Unit]]) -> None:
        """Ask the batches for what has no answer yet, and keep what comes back."""
        keeping.answer(groups, Asker(self.engine, self.recipe.seed, self.recipe.batch_size))


@contextmanager
def alone(recipe: Recipe, opened: Engine | None) -> Iterator[Alone]:
    """The engine of a recipe, closed with the block; or one that is open already, which stays so."""
    engine = opened or open_engine(recipe.engine, recipe.model, **recipe.engine_options)
    try:
        yield Alone(engine, recipe, engine.describe())
    finally:
        if opened is None:
            engine.close()
