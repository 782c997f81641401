"""Benchmark data on disk: what is there, what is missing and where to get it, and getting it."""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from grounddecode.evaluate.benchmarks.table import DATA_SETS
from grounddecode.evaluate.data.download import digest, download
from grounddecode.evaluate.data.items import Archive, Item
from grounddecode.registry import nearest

THERE, MISSING, DAMAGED, INCOMPLETE = "there", "missing", "damaged", "incomplete"


@dataclass(frozen=True)
class State:
    """One item: `state` is there, missing, incomplete or damaged; `remark` says what to do, or what is known of it."""

    name: str
    path: str
    state: str
    size: int
    licence: str
    url: str
    sha256: str
    remark: str = ""


@dataclass(frozen=True)
class Report:
    """What is there of a benchmark's data."""

    name: str
    ok: bool
    files: tuple[State, ...]

    def text(self) -> str:
        """One item a line, with what to do about those that are not there."""
        lines = [f"{self.name}: {'complete' if self.ok else 'not complete'}"]
        for item in self.files:
            lines.append(f"  {item.state:<10} {item.path} ({item.licence}{_size(item.size)})")
            if item.state != THERE:
                source = f"{item.url} (SHA-256 {item.sha256})" if item.url else ""
                lines += [f"             {told}" for told in (item.remark, source) if told]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def names() -> list[str]:
    """Names of the data sets."""
    return list(DATA_SETS)


def check(name: str, root: Path | str) -> Report:
    """What of the data of a benchmark lies under `root`; files with a known checksum are compared with it.

    Raises:
        ValueError: an unknown name, or a root that is no folder.
    """
    if name not in DATA_SETS:
        raise ValueError(nearest(name, DATA_SETS, "data set"))
    folder = Path(root)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(root)!r} is no folder: give the folder that holds the data")
    states = tuple(_state(item, folder) for item in DATA_SETS[name])
    return Report(name, all(state.state == THERE for state in states), states)


def get(name: str, root: Path | str, progress: Callable[[str, int, int], None] | None = None) -> Report:
    """Download what is missing of a benchmark's data; a call that was stopped goes on where it stopped.

    What takes a person (a form, a site without plain addresses) stays missing, and the report says what to do.

    Args:
        progress: called with the name of a file, bytes there and bytes in all.

    Raises:
        ValueError: an unknown name, or a download that is not what it should be.
        RuntimeError: a server that cannot be reached.
    """
    report = check(name, root)
    wanted = {state.name for state in report.files if state.state != THERE}
    for url, items in _by_url(item for item in DATA_SETS[name] if item.name in wanted and item.url):
        _get(url, items, Path(root), progress)
    return check(name, root)


def _state(item: Item, root: Path) -> State:
    path = item.find(root)
    state, remark = (MISSING, item.where) if path is None else _examined(item, path)
    shown = path or root / item.places[0]
    return State(item.name, str(shown), state, item.size, item.licence, item.url, item.sha256, remark)


def _examined(item: Item, path: Path) -> tuple[str, str]:
    if item.archive is None and item.sha256:
        if path.stat().st_size != item.size or digest(path) != item.sha256:
            return DAMAGED, "the file is another one than was published: remove it and get it again"
    elif path.is_dir():
        held = sum(1 for entry in path.iterdir() if not entry.name.startswith("."))
        official = path.name == PurePosixPath(item.places[0]).name
        if not held or (official and item.files is not None and held < item.files):
            return INCOMPLETE, f"{held} of {item.files or 'some'} files are there. {item.where}".rstrip()
    elif not path.stat().st_size:
        return DAMAGED, "the file is empty: remove it and get it again"
    return THERE, ""


def _by_url(items: Iterable[Item]) -> list[tuple[str, list[Item]]]:
    """Items of one download together."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.url, []).append(item)
    return list(found.items())


def _get(url: str, items: list[Item], root: Path, progress: Callable[[str, int, int], None] | None) -> None:
    first = items[0]
    name = url.rpartition("/")[2]
    place = root / first.places[0]
    archives = [item.archive for item in items if item.archive is not None]
    target = root / PurePosixPath(first.places[0]).parts[0] / name if archives else place
    tell = None if progress is None else lambda done, total: progress(name, done, total)
    try:
        download(url, target, first.size, first.sha256, tell)
        if archives:
            unpack(target, target.parent, archives)
            target.unlink()
    except OSError as error:
        raise ValueError(f"{str(error.filename or target)!r} cannot be written ({error.strerror})") from None


def unpack(archive: Path, folder: Path, wanted: Iterable[Archive]) -> None:
    """Unpack the wanted members, each whole or not at all; those that would land outside the folder are left out.

    Raises:
        ValueError: no zip file, or one that is damaged.
    """
    prefixes = tuple(prefix for one in wanted for prefix in one.members)
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                place = PurePosixPath(member.filename)
                inside = not place.is_absolute() and ".." not in place.parts and place.parts
                if inside and not member.is_dir() and member.filename.startswith(prefixes):
                    _write_member(opened, member, folder / place)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error):
        raise ValueError(f"{str(archive)!r} is no zip file: remove it and try again") from None


def _write_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    beside = target.with_name(f".{target.name}.part")  # hidden, so that it is not counted when this is killed
    target.parent.mkdir(parents=True, exist_ok=True)
    with _member(opened, member) as source, open(beside, "wb") as file:
        shutil.copyfileobj(source, file)
    os.replace(beside, target)


def _member(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return opened.open(member)
    except OSError as error:  # the archive's table of contents points to a place that no file has
        raise zipfile.BadZipFile(str(error)) from None


def _size(size: int) -> str:
    if not size:
        return ""
    return f", {size / 1e9:.1f} GB" if size >= 1e9 else f", {size / 1e6:.1f} MB" if size >= 1e5 else f", {size} bytes"
