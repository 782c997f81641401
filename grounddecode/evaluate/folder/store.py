"""The run folder: run.json, append-only samples.jsonl, metrics.json."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, cast

from grounddecode.evaluate.folder.lines import Record, Tail, checked, lines_of, parse, tail_of, to_line
from grounddecode.evaluate.folder.run_file import RunFile, check_run
from grounddecode.evaluate.whole_files import PRIVATE, drop_stale, write_whole
from grounddecode.secrets import masked

__all__ = ["METRICS", "RUN", "SAMPLES", "Record", "RunFolder"]
RUN, SAMPLES, METRICS = "run.json", "samples.jsonl", "metrics.json"


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
        self._mended = False
        self._syncing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fsync")
        self._synced: Future[None] | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading -------------------------------------------------------------------------------------------------
    def run(self) -> RunFile | None:
        """What run.json says, or None where there is no run yet.

        Raises:
            ValueError: something else than a run of this version; the sentence names the field.
        """
        path = self.path / RUN
        try:
            found = masked(parse(path.read_bytes()))  # older versions stored keys
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}): restore it or choose another folder") from None
        check_run(found, path)
        return cast(RunFile, found)

    def stored_run(self) -> RunFile:
        """What run.json says. Raises ValueError where there is none."""
        found = self.run()
        if found is None:
            raise ValueError(f"{str(self.path)!r} holds no {RUN}: give the folder of a run")
        return found

    def records(self, sample_ids: Collection[str] | None = None) -> list[Record]:
        """The latest line of each (method, sample), in the order of their first lines; a torn last line is left out.

        Args:
            sample_ids: of the run, where they are known; else no more of them may be there than run.json counts.

        Raises:
            ValueError: a line that is no answer of this run; the sentence names the line and the field.
        """
        data = self._data()
        tail = tail_of(data, self.path / SAMPLES)
        whole = data if tail is Tail.WHOLE else data[: data.rfind(b"\n") + 1]
        lines = lines_of(whole, self.path / SAMPLES)
        return checked(lines, self.run(), sample_ids, self.path / SAMPLES)

    def _data(self) -> bytes:
        try:
            return (self.path / SAMPLES).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise ValueError(f"{self.path / SAMPLES} cannot be read ({error.strerror}): restore it") from None

    # -- writing -------------------------------------------------------------------------------------------------
    def open(self) -> None:
        """Make the folder, or make sure that it holds a run, and take it for this process.

        Raises:
            ValueError: the folder cannot be written, another process writes to it, or it holds files of these names
                that are not of a run: those stay as they are.
        """
        self._refuse_foreign()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            self._file = os.open(self.path / SAMPLES, flags, PRIVATE)
        except OSError as error:
            raise ValueError(
                f"the run folder {str(self.path)!r} cannot be written ({error.strerror}): choose another --out"
            ) from None
        try:
            _lock(self._file, self.path)
            for name in (RUN, METRICS):
                drop_stale(self.path / name)
        except BaseException:
            self.close()
            raise

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add lines, all or none: they outlive this process when this returns, a loss of power when the next call does.

        Raises:
            OSError: the disk is full or broken; it names the file.
        """
        if self._file is None:
            raise RuntimeError(f"the run folder {str(self.path)!r} is not open for writing: call open() first")
        if not self._mended:
            self._mend(self._file)
        data, start = b"".join(map(to_line, records)), os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except BaseException as error:
            os.ftruncate(self._file, start)
            raise _named(error, self.path / SAMPLES) from None
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

    def _refuse_foreign(self) -> None:
        """Nothing where the folder is new or holds a run, read without changing anything."""
        for name in (RUN, SAMPLES, METRICS):
            path = self.path / name
            if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
                raise ValueError(f"{path} is a link or no plain file: choose another --out")
        if self.run() is None:
            for name in (SAMPLES, METRICS):
                if (self.path / name).is_file() and (self.path / name).stat().st_size:
                    raise ValueError(f"{str(self.path)!r} holds a {name} but no {RUN}: give an empty folder")
        self.records()

    def _mend(self, file: int) -> None:
        """Before the first line is added: end a last line without its line end, take a torn one away."""
        data = self._data()
        tail = tail_of(data, self.path / SAMPLES)
        if tail is Tail.WHOLE and data and not data.endswith(b"\n"):
            os.write(file, b"\n")
        elif tail is Tail.TORN:
            os.ftruncate(file, data.rfind(b"\n") + 1)
        self._mended = True

    def _wait(self) -> None:
        synced, self._synced = self._synced, None
        if synced is not None:
            try:
                synced.result()
            except OSError as error:
                raise _named(error, self.path / SAMPLES) from None

    def _replace(self, name: str, given: Mapping[str, Any]) -> None:
        content = masked(given)
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
        try:
            data = text.encode()
        except UnicodeEncodeError:  # half of a pair, which UTF-8 does not have
            data = (json.dumps(content, allow_nan=False, indent=2) + "\n").encode()
        write_whole(self.path / name, data, PRIVATE)


def _named(error: BaseException, path: Path) -> BaseException:
    """An error of the disk with the file that it is about."""
    return OSError(error.errno, error.strerror, str(path)) if isinstance(error, OSError) else error


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
