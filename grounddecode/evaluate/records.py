"""Records in JSON Lines or in one JSON array, whichever a file holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


def read(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a file: one a line, or one array of them (the first character decides).

    Raises:
        ValueError: the file is missing, is not JSON, or holds something other than objects.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give an existing file.") from None
    if text.lstrip()[:1] == "[":
        records = _parse(text, f"{path}")
    else:  # not splitlines(): an answer may hold U+2028
        lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        records = [_parse(line, f"{path}, line {number},") for number, line in lines]
    if not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} holds something other than JSON objects: give JSON Lines or one array of objects.")
    return list(records)


def write(path: str | Path, records: Iterable[Record]) -> None:
    """Write one JSON object a line."""
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON value."""
    Path(path).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The one JSON value of a file, with a sentence when it is missing or broken."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return _parse(file.read(), f"{path}")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give an existing file.") from None


@contextmanager
def shaped(what: object, wanted: str) -> Iterator[None]:
    """For work on foreign data that trusts their shape: what it trips over becomes one sentence.

    Raises:
        ValueError: something in them is missing or of another kind.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        cause = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{what} is not {wanted} ({cause}): give it as it was published.") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}): give JSON Lines or one JSON array.") from None
