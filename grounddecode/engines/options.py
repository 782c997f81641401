"""Options of engines as a command line gives them: text that means a number or a choice of two."""

from __future__ import annotations

_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def yes_or_no(name: str, value: bool | str) -> bool:
    """A choice of two. Raises ValueError for text that is neither."""
    text = str(value).strip().lower()
    if text not in (*_YES, *_NO):
        raise ValueError(f"{name} is {value!r}, give true or false")
    return text in _YES


def whole_number(name: str, value: int | str, low: int) -> int:
    """A whole number of at least `low`. Raises ValueError for anything else."""
    try:
        found = int(str(value).replace("_", ""))
    except ValueError:
        found = low - 1
    if found < low:
        raise ValueError(f"{name} is {value!r}, give a whole number of at least {low}")
    return found
