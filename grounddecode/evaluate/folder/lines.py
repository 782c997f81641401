"""The lines of `samples.jsonl`: from bytes to answers of one run, and back."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum, auto
from math import inf
from pathlib import Path
from typing import Any

from grounddecode.evaluate.folder.run_file import RunFile, check_line
from grounddecode.evaluate.folder.schema import Misfit

#: A line of `samples.jsonl`, as `grounddecode.evaluate.folder.run_file` declares it.
Record = dict[str, Any]
Question = tuple[str, ...]
#: What must be the same in the lines that different methods have of one sample.
_SHARED = ("image_id", "prompt", "label", "truth", "hallu", "type")
_CURE = "restore the file or delete the line"


class Tail(Enum):
    """What stands behind the last line end: nothing or a whole line, or one that a killed process has left torn."""

    WHOLE = auto()
    TORN = auto()


def tail_of(data: bytes, path: Path | str) -> Tail:
    """What the last line is.

    Raises:
        ValueError: the beginning of something that was never a line of ours.
    """
    last = data[data.rfind(b"\n") + 1 :].removeprefix(BOM_UTF8)
    if not last.strip():
        return Tail.WHOLE if not last else Tail.TORN
    try:
        check_line(parse(last), None)
    except ValueError:
        # A file system that lost power leaves zeros.
        if last[:1] in (b"{", b"\0"):
            return Tail.TORN
        number = data.count(b"\n") + 1
        raise ValueError(f"{path}, line {number}, is no record of a run: {_CURE}, or choose another folder") from None
    return Tail.WHOLE


def lines_of(data: bytes, path: Path | str) -> Iterator[tuple[int, Record]]:
    """The number and content of every line.

    Raises:
        ValueError: a line that is no JSON.
    """
    for number, line in enumerate(data.removeprefix(BOM_UTF8).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, parse(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is no record of a run ({error}): {_CURE}") from None


def checked(
    lines: Iterable[tuple[int, Record]], run: RunFile | None, sample_ids: Collection[str] | None, path: Path | str
) -> list[Record]:
    """The latest line of each (method, sample), in the order of their first lines.

    Raises:
        ValueError: a line that is no answer of the run.
    """
    latest: dict[tuple[str, str], Record] = {}
    asked: dict[str, tuple[int, Record]] = {}
    most = inf if run is None else run["n_samples"]
    for number, line in lines:
        try:
            check_line(line, run)
            first, known = asked.setdefault(line["sample_id"], (number, line))
            _check_same(line, known, first)
            if len(asked) > most or (sample_ids is not None and line["sample_id"] not in sample_ids):
                raise Misfit(f"the field sample_id is {line['sample_id'][:40]!r}, which is no sample of the run")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is no record of a run ({error}): {_CURE}") from None
        latest[line["method"], line["sample_id"]] = line
    return list(latest.values())


def question(record: Mapping[str, Any]) -> Question:
    """What was asked about which picture, how long the answer might be, and what it is held against.

    Answers are compared where this is the same: runs of other data have other samples under the same ids.
    """
    return tuple(str(record.get(name)) for name in ("sample_id", "max_new_tokens", *_SHARED))


def to_line(record: Mapping[str, Any]) -> bytes:
    """A line with its line end."""
    text = json.dumps(record, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a pair, which a server may send and UTF-8 does not have
        return (json.dumps(record) + "\n").encode()


def parse(text: bytes) -> Any:
    """The JSON value of a file or line of ours.

    Raises:
        ValueError: why it is none; numbers that are none are not written by us either.
    """
    try:
        return _JSON.decode(text.removeprefix(BOM_UTF8).decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def _check_same(line: Record, known: Record, first: int) -> None:
    if line is known:
        return
    for name in _SHARED:
        if line.get(name) != known.get(name):
            raise Misfit(f"the field {name} is another than in line {first}, which is about the same sample")
