"""Settings of a run: everything that its answers depend on, compared before anything is added to a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

#: What an engine says about itself that the answers depend on.
ENGINE_FACTS = ("engine", "model", "class", "dtype", "attention", "url")
#: What differs because something else does, and says little by itself.
_FOLLOWING = ("questions", "plans")
_MOST = 3  # differences named in a sentence


def digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings."""
    return sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode(errors="replace")).hexdigest()


def refuse_others(folder: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Nothing, when both are the same; else one sentence that names what differs.

    Raises:
        ValueError: they differ.
    """
    different = [key for key in {**stored, **wanted} if plain(stored.get(key)) != plain(wanted.get(key))]
    if not different:
        return
    different = [key for key in different if key not in _FOLLOWING] or different
    told = [f"{key} {_short(stored.get(key))}, not {_short(wanted.get(key))}" for key in different[:_MOST]]
    more = f" and {len(different) - _MOST} more" if len(different) > _MOST else ""
    raise ValueError(
        f"{folder!r} holds a run with {'; '.join(told)}{more}: give the same settings to resume it, or another --out"
    )


def engine_facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an engine's description that the answers depend on."""
    return {key: description[key] for key in ENGINE_FACTS if key in description}


def plain(value: Any) -> Any:
    """As JSON gives it back; what JSON does not know, as its `to_dict` or its text."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "to_dict", other.__str__)()))


def _short(value: Any) -> str:
    if value is None:
        return "unset"
    text = ",".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
