"""Recipes: the arguments of a bench in a YAML file, so that a committed result can be made again."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from grounddecode.evaluate.runner import Progress, bench
from grounddecode.registry import nearest

_OURS = ("about",)
_NEVER = ("out", "progress", "opened")  # what a file cannot say


def read(path: Path | str) -> dict[str, Any]:
    """The arguments of `bench` that a recipe holds. `about` says what it is for, and is left out.

    Raises:
        ValueError: no readable YAML mapping, an argument that `bench` does not have, or no model.
    """
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"the recipe {str(path)!r} cannot be read: {error}") from None
    if not isinstance(found, dict) or "model" not in found:
        raise ValueError(f"the recipe {str(path)!r} names no model: write `model: ...` and other arguments of bench")
    known = [name for name in signature(bench).parameters if name not in _NEVER]
    for key in found:
        if key not in known and key not in _OURS:
            raise ValueError(nearest(str(key), known, f"argument of bench, in the recipe {str(path)!r}"))
    if not isinstance(found.get("engine_options", {}), dict):
        raise ValueError(f"engine_options of the recipe {str(path)!r} are no mapping: write `key: value` lines")
    return {key: value for key, value in found.items() if key not in _OURS}


def run(
    recipe: Path | str, out: Path | str, progress: Callable[[Progress], None] | None = None, **changes: Any
) -> dict[str, Any]:
    """Run a recipe into a run folder, with some arguments changed; see `bench` for what comes back."""
    return bench(out=out, progress=progress, **{**read(recipe), **changes})
