"""Recipes in YAML files, so that a committed result can be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from grounddecode.evaluate.run.recipe import Recipe
from grounddecode.evaluate.run.runner import Progress, bench
from grounddecode.registry import nearest

_OURS = ("about",)


def read(path: Path | str) -> Recipe:
    """The recipe of a file. `about` says what it is for, and is left out.

    Raises:
        ValueError: no readable YAML mapping, a field that a recipe does not have or of another type, or no model.
    """
    found = said(path)
    if "model" not in found:
        raise ValueError(f"the recipe {str(path)!r} names no model: write `model: ...` and other fields of a recipe")
    try:
        return Recipe(**found)
    except ValueError as error:
        raise ValueError(f"in the recipe {str(path)!r} {error}") from None


def said(path: Path | str) -> dict[str, Any]:
    """The fields that a file names, checked by name alone.

    Raises:
        ValueError: no readable YAML mapping, or a field that a recipe does not have.
    """
    found = _load(path)
    if not isinstance(found, dict):
        raise ValueError(f"the recipe {str(path)!r} names no model: write `model: ...` and other fields of a recipe")
    known = [field.name for field in fields(Recipe)]
    for key in found:
        if key not in known and key not in _OURS:
            raise ValueError(nearest(str(key)[:40], known, f"argument of bench, in the recipe {str(path)!r}"))
    if not isinstance(found.get("engine_options", {}), Mapping):
        raise ValueError(f"engine_options of the recipe {str(path)!r} are no mapping: write `key: value` lines")
    return {key: value for key, value in found.items() if key not in _OURS}


def run(
    recipe: Path | str, out: Path | str, progress: Callable[[Progress], None] | None = None, **changes: Any
) -> dict[str, Any]:
    """Run a recipe into a run folder, with some fields changed; `opened` as in `bench`, which says what comes back."""
    opened = changes.pop("opened", None)
    return bench(replace(read(recipe), **changes), out, progress=progress, opened=opened)


def _load(path: Path | str) -> Any:
    """The YAML of a file. Anchors are refused: a few lines of them can stand for more than fits into memory."""
    import yaml

    class Plain(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it has an alias (*name): write the value out")
            return super().compose_node(parent, index)

    try:
        with open(path, encoding="utf-8-sig") as file:
            return yaml.load(file.read(), Plain)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"the recipe {str(path)!r} cannot be read: {reason}") from None
