"""Options of an engine as people write them: numbers within bounds, switches, JSON objects, keys."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from grounddecode import schema
from grounddecode.secrets import hidden, remember

DAY = 86400.0  # seconds
_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def number(name: str, value: float | str, low: float, high: float) -> float:
    """A finite number from `low` to `high`. Raises ValueError."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    if not low <= found <= high:
        raise ValueError(f"{name} is {value!r}, give a number from {low:g} to {high:g}")
    return found


def whole(name: str, value: int | str, low: int, high: int) -> int:
    """A whole number from `low` to `high`. Raises ValueError."""
    found = number(name, value, low, high)
    if not found.is_integer():
        raise ValueError(f"{name} is {value!r}, give a whole number")
    return int(found)


def switch(name: str, value: bool | str) -> bool:
    """Yes or no. Raises ValueError."""
    found = _SWITCH.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"{name} is {value!r}, give true or false")
    return found


def mapping(name: str, value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """A mapping, given as such or as a JSON object. Raises ValueError."""
    try:
        once = partial(schema.once, where="in it")
        found = json.loads(value, object_pairs_hook=once) if isinstance(value, str) else dict(value or {})
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(hidden(f"{name} is {value!r}, no JSON that can be read: {error}")) from None
    if not isinstance(found, dict):
        raise ValueError(hidden(f"{name} is {value!r}, give a JSON object"))
    return found


def api_key(given: str | None, variable: str) -> str | None:
    """The key that was given, else the environment's, without the line end or blanks around it; None for no key.

    From here on no message holds it, see `grounddecode.secrets`.

    Raises:
        ValueError: what is left cannot be sent. The message does not repeat it.
    """
    key = (given or os.environ.get(variable) or "").strip()
    if not key.isascii() or any(not one.isprintable() or one == " " for one in key):
        name = "api_key" if given else variable
        raise ValueError(f"{name} holds a blank, a line end or a letter that no key has: give the key and nothing else")
    remember(key)
    return key or None
