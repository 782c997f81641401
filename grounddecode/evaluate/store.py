"""The run folder: run.json, append-only samples.jsonl, metrics.json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from grounddecode.secrets import masked

Record = dict[str, Any]
_HELD = {"settings": dict, "methods": list, "parts": list}  # what every run.json has
RUN, SAMPLES, METRICS = "run.json", "samples.jsonl", "metrics.json"
_OWNER_ONLY = 0o600  # settings and answers are nobody else's business; who shares a run changes the mode


class RunFolder:
    """A folder that one process writes to and any number of processes read.

    A line of `samples.jsonl` is one answer of one method to one sample. Lines are only ever added, a batch in one
    write followed by fsync, so a process killed at any moment leaves at most one line torn, the last one. The fsync
    goes on beside the next batch and is waited for before the one after is written: where the power fails too, two
    batches are lost at most.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: int | None = None
        self._syncing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fsync")
        self._synced: Future[None] | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading -------------------------------------------------------------------------------------------------
    def run(self) -> dict[str, Any] | None:
        """What run.json says, or None where there is no run yet."""
        found = self._json(RUN)
        if found is not None and not all(isinstance(found.get(key), kind) for key, kind in _HELD.items()):
            raise ValueError(f"{self.path / RUN} is not of a run of this version: restore it or choose another folder")
        return found

    def stored_run(self) -> dict[str, Any]:
        """What run.json says. Raises ValueError where there is none."""
        found = self.run()
        if found is None:
            raise ValueError(f"{str(self.path)!r} holds no {RUN}: give the folder of a run")
        return found

    def metrics(self) -> dict[str, Any] | None:
        """What metrics.json says, or None where nothing was scored yet."""
        return self._json(METRICS)

    def records(self) -> list[Record]:
        """The latest line of each (method, sample), in the order of their first lines; a torn last line is left out.

        Raises:
            ValueError: a broken line that is not the last one.
        """
        latest: dict[tuple[str, str], Record] = {}
        for record in _lines(self.path / SAMPLES):
            latest[record["method"], record["sample_id"]] = record
        return list(latest.values())

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}): restore it or choose another folder") from None
        if not isinstance(found, dict):
            raise ValueError(f"{path} holds no JSON object: restore it or choose another folder")
        return dict(masked(found))  # older versions stored keys

    # -- writing -------------------------------------------------------------------------------------------------
    def open(self) -> None:
        """Make the folder, take it for this process, and drop a torn last line.

        Raises:
            ValueError: the folder cannot be written, or another process writes to it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path / SAMPLES, os.O_RDWR | os.O_CREAT | os.O_APPEND, _OWNER_ONLY)
        except OSError as error:
            raise ValueError(
                f"the run folder {str(self.path)!r} cannot be written ({error.strerror}): choose another --out"
            ) from None
        try:
            _lock(self._file, self.path)
            _drop_torn_line(self._file)
        except BaseException:
            self.close()
            raise

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add lines: they outlive this process when this returns, and a loss of power when the next call does."""
        if self._file is None:
            raise RuntimeError(f"the run folder {str(self.path)!r} is not open for writing: call open() first")
        data = b"".join(map(_line, records))
        while data:
            data = data[os.write(self._file, data) :]
        self._wait()
        self._synced = self._syncing.submit(os.fsync, self._file)

    def write_run(self, run: Mapping[str, Any]) -> None:
        self._replace(RUN, run)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        self._replace(METRICS, metrics)

    def close(self) -> None:
        """Let other processes write. Raises OSError when the disk could not take the last lines."""
        file, self._file = self._file, None
        if file is not None:
            try:
                self._wait()
            finally:
                os.close(file)

    def _wait(self) -> None:
        synced, self._synced = self._synced, None
        if synced is not None:
            synced.result()

    def _replace(self, name: str, content: Mapping[str, Any]) -> None:
        """A whole file or none, without secrets: written beside the old one, then renamed over it."""
        text = json.dumps(masked(content), ensure_ascii=False, allow_nan=False, indent=2) + "\n"
        beside = self.path / f".{name}.{os.getpid()}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self.path / name)


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a pair, which a server may send and UTF-8 does not have
        return (json.dumps(record) + "\n").encode()


def _lines(path: Path) -> Iterable[Record]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    lines = data.split(b"\n")
    whole = lines[:-1]  # what follows the last line end is empty, or torn
    for number, line in enumerate(whole, 1):
        try:
            record = json.loads(line)
            _ = record["method"], record["sample_id"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number}, is no record of a run: restore the file or delete the line"
            ) from None
        yield record


def _lock(file: int, path: Path) -> None:
    """One writer at a time; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ValueError(f"another process is writing to {str(path)!r}: wait for it, or choose another --out") from None


def _drop_torn_line(file: int, block: int = 65536) -> None:
    """Cut the file behind its last line end."""
    end = os.fstat(file).st_size
    keep = end
    while keep > 0:
        start = max(0, keep - block)
        at = os.pread(file, keep - start, start).rfind(b"\n")
        if at >= 0:
            keep = start + at + 1
            break
        keep = start
    if keep != end:
        os.ftruncate(file, keep)
        os.fsync(file)
