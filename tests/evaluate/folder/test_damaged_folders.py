"""Run folders edited or damaged in every way: each command answers with numbers or with one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grounddecode.cli.errors import sentence
from grounddecode.evaluate.results.compare import compare
from grounddecode.evaluate.run.runner import Recipe, bench, rescore
from grounddecode.report.write import write
from tests.evaluate.fake import FakeEngine, write_folder

#: Values of a wrong type or size that editors, merges of branches and other programs leave behind.
WRONG: tuple[Any, ...] = (None, "x", "", -1, 10**30, 1.5, True, [], ["x"], [["x"]], {}, {"x": []}, float("nan"))
Damage = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    data = write_folder(tmp_path_factory.mktemp("data"), 6)
    return Recipe(model="fake", data=str(data), methods=("greedy", "sample"), limit=2, resamples=3)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    bench(recipe, folder, opened=FakeEngine())
    return folder


def paths(value: Any, prefix: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value."""
    if prefix:
        yield prefix
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*prefix, key))


def changed(value: Any, path: tuple[str | int, ...], new: Any, drop: bool = False) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return copy


def edits(value: Any) -> Iterator[Any]:
    """The value with each of its places taken away, or made something else."""
    for path in paths(value):
        yield changed(value, path, None, drop=True)
        for new in WRONG:
            yield changed(value, path, new)


BYTES: dict[str, Damage] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "no last letter": lambda data: data[:-1],
    "two letters less": lambda data: data[:-2],
    "first letter gone": lambda data: data[1:],
    "zeros at the end": lambda data: data + b"\0" * 64,
    "zeros in the middle": lambda data: data[:50] + b"\0" * 64 + data[50:],
    "no UTF-8": lambda data: data[:60] + b"\xff\xfe" + data[60:],
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "gzip": lambda data: b"\x1f\x8b\x08\0" + data,
    "a mark of the byte order": lambda data: b"\xef\xbb\xbf" + data,
    "Windows line ends": lambda data: data.replace(b"\n", b"\r\n"),
    "twice": lambda data: data + data,
    "a blank line": lambda data: data + b"\n",
    "garbage behind": lambda data: data + b"my notes",
    "garbage line": lambda data: data + b"my notes\n",
    "garbage first": lambda data: b"my notes\n" + data,
    "an array": lambda data: b"[" + data.rstrip().replace(b"\n", b",") + b"]\n",
    "nested deeply": lambda data: b"[" * 200_000 + b"\n" + data,
    "a number of 9,999 digits": lambda data: b"1" * 9_999 + b"\n" + data,
    "conflict marks": lambda data: b"<<<<<<< HEAD\n" + data + b"=======\n",
    "null": lambda data: b"null\n",
    "a number": lambda data: b"7\n",
    "text": lambda data: b'"x"\n',
    "an empty object": lambda data: b"{}\n",
    "half a pair": lambda data: data.replace(b"greedy", b"\\ud800", 1),
    "other method": lambda data: data.replace(b"greedy", b"greedier"),
    "lines turned round": lambda data: b"".join(reversed(data.splitlines(keepends=True))),
    "a line gone": lambda data: b"".join(data.splitlines(keepends=True)[1:]),
    "a key twice": lambda data: data.replace(b'"status": "ok"', b'"status": "ok", "status": []', 1),
}


def damages(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of damaged files."""
    stored = json.loads((folder / "run.json").read_text())
    for made in edits(stored):
        yield "run.json", json.dumps(made).encode()
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for kind in ("pope", "chair"):
        at = next(at for at, line in enumerate(lines) if line["benchmark"] == kind)
        for made in edits(lines[at]):
            text = [json.dumps(line) for line in (*lines[:at], made, *lines[at + 1 :])]
            yield "samples.jsonl", ("\n".join(text) + "\n").encode()
    for name in ("run.json", "samples.jsonl"):
        for damage in BYTES.values():
            yield name, damage((folder / name).read_bytes())


def outcome(work: Callable[[], object]) -> str:
    """ "done", or the sentence; anything else is raised."""
    try:
        work()
    except (ValueError, RuntimeError, OSError) as error:
        told = sentence(error)
        assert 0 < len(told) <= 600, told
        assert "\n" not in told
        return told
    return "done"


def works(folder: Path, out: Path, recipe: Recipe) -> dict[str, Callable[[], object]]:
    return {
        "compare": lambda: compare([folder]).text(),
        "report": lambda: write(folder, out, images=1),
        "rescore": lambda: rescore(folder),
        "resume": lambda: bench(recipe, folder, opened=FakeEngine()),
    }


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 29])
def test_a_damaged_folder_is_read_or_refused_in_one_sentence(
    run: Path, recipe: Recipe, tmp_path: Path, step: int
) -> None:
    counts = {"done": 0, "refused": 0}
    for number, (name, content) in enumerate(damages(run)):
        if number % step:
            continue
        for work in ("compare", "report", "rescore", "resume"):
            folder = tmp_path / "run"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(run, folder)
            (folder / name).write_bytes(content)
            told = outcome(works(folder, tmp_path / "out", recipe)[work])
            counts["done" if told == "done" else "refused"] += 1
            if told != "done":  # answers stay as they were
                assert name != "samples.jsonl" or (folder / name).read_bytes() == content, (work, told)
    assert counts["done"] > 20 // step
    assert counts["refused"] > counts["done"] // 4


@pytest.mark.parametrize("name", sorted(BYTES))
def test_bytes_that_are_damaged(run: Path, recipe: Recipe, tmp_path: Path, name: str) -> None:
    for file in ("run.json", "samples.jsonl"):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(run, tmp_path / "run")
        (tmp_path / "run" / file).write_bytes(BYTES[name]((run / file).read_bytes()))
        for work in works(tmp_path / "run", tmp_path / "out", recipe).values():
            outcome(work)
