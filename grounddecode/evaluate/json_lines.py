"""Records in JSON Lines or in one JSON array, whichever a file holds."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]

_GZIP = b"\x1f\x8b"
#: Marks at the start of a file, the longer ones first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_bytes(path: str | Path) -> bytes:
    """What a file holds.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path} cannot be read ({cause}): give an existing file.") from None


def read_text(path: str | Path) -> str:
    """The text of a file: UTF-8, or what a byte order mark at its start says; every line ends in "\\n".

    Raises:
        ValueError: it cannot be read, is compressed, or is no such text.
    """
    found = read_bytes(path)
    if found.startswith(_GZIP):
        raise ValueError(f"{path} is compressed with gzip: unpack it first.")
    encoding = next((name for mark, name in _MARKS.items() if found.startswith(mark)), "utf-8")
    try:
        return io.TextIOWrapper(io.BytesIO(found), encoding).read()
    except UnicodeError as error:
        raise ValueError(f"{path} is no {encoding.upper()} text ({error}): save it as UTF-8.") from None


def read(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a file: one a line, or one array of them (the first character decides).

    Raises:
        ValueError: the file is missing, is not JSON, or holds something other than objects.
    """
    text = read_text(path)
    if text.lstrip()[:1] == "[":
        records = _parse(text, f"{path}")
    else:  # not splitlines(): an answer may hold U+2028
        lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        records = [_parse(line, f"{path}, line {number},") for number, line in lines]
    if not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} holds something other than JSON objects: give JSON Lines or one array of objects.")
    return list(records)


def read_having(path: str | Path, wanted: Sequence[str], kind: str, cure: str) -> list[dict[str, Any]]:
    """`read` of records that all have some fields; `kind` is what the sentence calls one, `cure` what to give.

    Raises:
        ValueError: also where a field is missing.
    """
    records = read(path)
    for place, record in enumerate(records, 1):
        missing = [field for field in wanted if field not in record]
        if missing:
            raise ValueError(f"{kind} {place} of {path} lacks {', '.join(missing)}: give {cure}.")
    return records


def renamed(records: Sequence[Record], keys: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Records whose fields have other names: `{"caption": "output"}` puts under `caption` what `output` holds.

    Args:
        keys: our name to the name in the file; None: it has our name.

    Raises:
        ValueError: a record without such a field.
    """
    wanted = {ours: theirs for ours, theirs in keys.items() if theirs is not None}
    for place, record in enumerate(records, 1):
        missing = next((theirs for theirs in wanted.values() if theirs not in record), None)
        if missing is not None:
            raise ValueError(f"record {place} has no {missing!r}: it has {fields(record)}, name the one you mean.")
    return [{**record, **{ours: record[theirs] for ours, theirs in wanted.items()}} for record in records]


def fields(record: Record) -> str:
    """The names of a record's fields, for a sentence about it."""
    return ", ".join(map(repr, record))[:200] or "nothing"


def write(path: str | Path, records: Iterable[Record]) -> None:
    """Write one JSON object a line."""
    _write(path, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON value."""
    _write(path, [json.dumps(value, ensure_ascii=False, indent=1) + "\n"])


def _write(path: str | Path, lines: Iterable[str]) -> None:
    # Half of a surrogate pair, which JSON can say and UTF-8 cannot, is written as JSON says it.
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(lines)


def read_json(path: str | Path) -> Any:
    """The one JSON value of a file, with a sentence when it is missing or broken."""
    return _parse(read_text(path), f"{path}")


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


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """For work on the records of a file: an error about them that does not name the file gets its name in front.

    Raises:
        ValueError: what the work raised.
    """
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply: give JSON Lines or one JSON array.") from None
    except ValueError as error:  # broken, or a number of thousands of digits
        raise ValueError(f"{where} is not JSON ({error}): give JSON Lines or one JSON array.") from None
