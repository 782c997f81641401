"""Engines that actors open: the fake one, slow enough to be caught at work, and one that raises."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.method import Method
from tests.evaluate.fake import FakeEngine

SLOW = 0.02  # seconds a request


class Fake(FakeEngine):
    name = "hf"  # as recipes know it


def fake(name: str, model: str, /, **options: Any) -> Fake:
    return Fake()


def met(place: Path, opens: Callable[..., Any], name: str, model: str, /, **options: Any) -> Any:
    """Opens an engine once two processes are here to open theirs: how far apart they come up is chance.

    Args:
        place: a folder in which each leaves its mark.
    """
    place.mkdir(parents=True, exist_ok=True)
    (place / str(os.getpid())).touch()
    deadline = time.monotonic() + 300
    while len(list(place.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return opens(name, model, **options)


def slow(name: str, model: str, /, **options: Any) -> Fake:
    return Fake(SLOW)


def _number(request: Request) -> int:
    """Of its picture."""
    image = request.images[0]
    assert isinstance(image, Image.Image)
    return int(image.getpixel((0, 0))[0])


class Raises(Fake):
    """Fails on every request about the second picture."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        if any(_number(request) == 1 for request in requests):
            raise ValueError("this engine does not like the second picture")
        return super().generate(requests, decoding, methods)


def raising(name: str, model: str, /, **options: Any) -> Raises:
    return Raises()


class Hasty(Raises):
    """Takes its time over the first picture, so that another process fails on the second one before."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        time.sleep(any(_number(request) == 0 for request in requests))
        return super().generate(requests, decoding, methods)


def hasty(name: str, model: str, /, **options: Any) -> Hasty:
    return Hasty()


class Tender(Fake):
    """Fails with a method on the first picture."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        if methods and any(_number(request) == 0 for request in requests):
            raise RuntimeError("this engine does not like the first picture")
        return super().generate(requests, decoding, methods)


def tender(name: str, model: str, /, **options: Any) -> Tender:
    return Tender()


class Once(Fake):
    """Of all processes, the one that is asked about the first picture first dies. `mark`: is there when it has."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark = mark

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        if _number(requests[0]) == 0 and not self.mark.exists():
            self.mark.mkdir()
            time.sleep(2)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(requests, decoding, methods)


def first_two(place: Path) -> set[int]:
    """The processes that `met`."""
    came = sorted(place.iterdir(), key=lambda mark: mark.stat().st_mtime_ns)
    return {int(mark.name) for mark in came[:2]}


def once(place: Path, name: str, model: str, /, **options: Any) -> Once:
    """Of the two that meet one will die. A process behind them stands when something is answered. `model`: the run."""
    deadline = time.monotonic() + 60
    late = os.getpid() not in first_two(place)
    while late and not (Path(model) / "samples.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return Once(Path(f"{model}.dead"))


class Deadly(Fake):
    """Its process dies, as from a fault in a kernel, when it is asked about the second picture for a caption."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        if any(_number(r) == 1 and not r.prompt.startswith("Is there") for r in requests):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(requests, decoding, methods)


def deadly(name: str, model: str, /, **options: Any) -> Deadly:
    return Deadly()


def missing(name: str, model: str, /, **options: Any) -> Fake:
    raise ValueError(f"there is no model {model!r} here: give another")


class Unlike(Fake):
    """Says another dtype in the second process that opens it."""

    def __init__(self, mark: Path) -> None:
        super().__init__(5 * SLOW)
        try:
            mark.mkdir()
            self.dtype = "float32"
        except FileExistsError:
            self.dtype = "bfloat16"

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "dtype": self.dtype}


def unlike(name: str, model: str, /, **options: Any) -> Fake:
    return Unlike(Path(model))


class Half(Fake):
    def describe(self) -> dict[str, object]:
        return {**super().describe(), "dtype": "bfloat16"}


def half(name: str, model: str, /, **options: Any) -> Fake:
    return Half()


def elsewhere(name: str, model: str, /, **options: Any) -> Fake:
    """From now on this process stands in another folder, where the driver's relative paths lead nowhere."""
    os.chdir("/")
    return Fake()
