"""The side that answers: one engine in a process of its own, which knows nothing of the run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grounddecode.engines.base import Engine
from grounddecode.evaluate.run.asking import Asked, Asker
from grounddecode.evaluate.run.batches import Opened, Unit, open_unit
from grounddecode.evaluate.run.provenance import commit, hardware, versions
from grounddecode.evaluate.run.recipe import Recipe
from grounddecode.evaluate.sample import LAB, Pictures
from grounddecode.registry import plans

#: A batch by the names of its pictures, or with them.
Batch = Sequence[Unit] | Sequence[Opened]


@dataclass(frozen=True)
class Place:
    """What an engine says when it stands, or why it does not.

    Attributes:
        node: the node's name in the cluster, cut short.
        description: of the engine.
        visible: whether the driver's pictures lie here under the same names.
        error: why there is no engine, else "".
    """

    node: str
    pid: int
    versions: Mapping[str, str]
    commit: Mapping[str, Any] | None
    hardware: Mapping[str, Any]
    description: Mapping[str, Any] = field(default_factory=dict)
    max_pixels: int | None = None
    side: int | None = None
    draws_alone: bool = False
    visible: bool = False
    error: str = ""


class Worker:
    """What Ray makes an actor of. Opening is a call of its own, so that a sentence comes back where it fails.

    Args:
        folder: the driver's working folder; relative paths of the recipe are meant from there, where it is here too.
        node: of the cluster.
        opens: opens the engine.
    """

    def __init__(self, recipe: Recipe, folder: str, node: str, opens: Callable[..., Engine]) -> None:
        self._recipe, self._node, self._opens = recipe, node[:8], opens
        if Path(folder).is_dir():
            os.chdir(folder)
        self._plans = {plan.name: plan for plan in plans(recipe.methods)}
        self._engine: Engine | None = None

    def open(self, pictures: Mapping[str, int]) -> Place:
        """Open the engine, and look for the driver's pictures (bytes by path)."""
        recipe = self._recipe
        try:
            self._engine = self._opens(recipe.engine, recipe.model, **recipe.engine_options)
        except (ValueError, RuntimeError, OSError) as error:
            return replace(self._place(), error=" ".join(str(error).split()) or type(error).__name__)
        self._asker = Asker(self._engine, recipe.seed, recipe.batch_size)
        self._pictures = Pictures(max_pixels=self._engine.max_pixels, side=self._engine.side)
        return replace(
            self._place(),
            description=self._engine.describe(),
            max_pixels=self._engine.max_pixels,
            side=self._engine.side,
            draws_alone=self._asker.draws_alone,
            visible=all(_size(path) == size for path, size in pictures.items()),
        )

    def refusal(self, plan: str, group: Batch) -> str | None:
        """As `Asker.refusal`."""
        return self._asker.refusal(self._plans[plan], self._opened(group))

    def ask(
        self,
        plan: str,
        group: Sequence[Unit] | Sequence[Opened],
        wanted: Sequence[int],
        fresh: bool,
    ) -> list[Asked]:
        """All that `Asker.ask` gives, each record with the node and process that answered.

        Args:
            group: a batch; its pictures are opened here where it has none.
            wanted: places in the batch of what is asked.
            fresh: the first batch of this process.
        """
        pieces = self._opened(group)
        asked = self._asker.ask(self._plans[plan], [pieces[at] for at in wanted], warming_up=fresh)
        return [self._signed(piece) for piece in asked]

    def close(self) -> None:
        """Let the engine end what it has started."""
        if self._engine is not None:
            self._engine.close()

    def _opened(self, group: Batch) -> list[Opened]:
        return [one if isinstance(one, Opened) else open_unit(one, self._pictures) for one in group]

    def _signed(self, asked: Asked) -> Asked:
        mine = {"node": self._node, "pid": os.getpid()}
        return replace(asked, records=[record | mine for record in asked.records])

    def _place(self) -> Place:
        return Place(self._node, os.getpid(), versions(), commit(), hardware())


def sizes(images: Iterable[str]) -> dict[str, int]:
    """Bytes of the pictures by path, drawn ones left out; one that is not there has -1."""
    return {image: _size(image) for image in dict.fromkeys(images) if not image.startswith(LAB)}


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1
