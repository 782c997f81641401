"""The one normal form of the ids in files: image 42 is `42`, `"42"`, `"000000000042"`, `42.0` or a COCO file name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from functools import lru_cache
from typing import Any

_WHOLE = re.compile(r"-?[0-9]{1,18}(?:\.0*)?")
#: COCO's own file names and the lab's, whose number is the id; with or without the folder and the ending.
_COCO_NAME = re.compile(r"(?:.*[/\\])?(?:COCO_[a-z]+[0-9]{4}_|LAB_)?([0-9]{12})(?:\.(?:jpg|jpeg|png))?", re.IGNORECASE)


def normal(found: Any) -> int | str:
    """The id that a file means: a number where it can be read as one, else the text without blanks around it.

    Raises:
        ValueError: neither text nor a whole number.
    """
    if isinstance(found, str):
        return _of_text(found)
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    shown = repr(found) if isinstance(found, float | bool) or found is None else f"a {type(found).__name__}"
    raise ValueError(f"the id {shown} is neither text nor a whole number: give ids of one kind.")


@lru_cache(maxsize=65536)
def _of_text(text: str) -> int | str:
    bare = text.strip()
    if _WHOLE.fullmatch(bare):
        return int(bare.partition(".")[0])
    name = _COCO_NAME.fullmatch(bare)
    return int(name[1]) if name else bare


def repeated(found: Iterable[Hashable]) -> list[Any]:
    """What occurs more than once, each once."""
    return [one for one, times in Counter(found).items() if times > 1]


def unique(names: Iterable[str]) -> list[str]:
    """The names, `~2`, `~3`, ... behind those that were there before: no two are equal, and the first keep theirs."""
    seen: Counter[str] = Counter()
    made: dict[str, None] = {}
    for name in names:
        one = name
        while one in made:
            seen[name] += 1
            one = f"{name}~{seen[name] + 1}"
        made[one] = None
    return list(made)
