"""Samples: one question of a benchmark about one picture, and opening the pictures ahead of need."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL.Image import Image

    from grounddecode.lab.world import Scene

LAB = "lab:"
#: In place of a data folder: the lab's drawn scenes.
LAB_DATA = "lab"


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        sample_id: unique in a run, such as `pope-random/17`; the same in every run of the same data.
        image_id: what samples of one picture share across benchmarks; intervals are clustered by it.
        image: a path, or `lab:SEED` for a drawn scene.
        prompt: the user's text.
        max_new_tokens: longest answer, in tokens.
        facts: what scoring needs beside the answer (`label`, `truth`, ...); stored with every answer.
        root: the folder of the data; stored pictures are named as seen from it, so that both can be moved.
    """

    sample_id: str
    benchmark: str
    split: str
    image_id: int | str
    image: str
    prompt: str
    max_new_tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    root: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields of a line of samples.jsonl that do not depend on the method."""
        return {
            "sample_id": self.sample_id,
            "benchmark": self.benchmark,
            "split": self.split,
            "image_id": self.image_id,
            "image": self._stored_image(),
            "prompt": self.prompt,
            "max_new_tokens": self.max_new_tokens,
            **self.facts,
        }

    def with_facts(self, **facts: Any) -> Sample:
        """The same question with further facts."""
        return replace(self, facts={**self.facts, **facts})

    def _stored_image(self) -> str:
        path = Path(self.image)
        return path.relative_to(self.root).as_posix() if self.root and path.is_relative_to(self.root) else self.image


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256 of what is asked: equal if and only if two runs have the same samples in the same order.

    The folder of a picture may differ between machines, and CHAIR's ground truth between flavours.
    """
    digest = sha256()
    for sample in samples:
        told = sample.to_dict() | {"image": Path(sample.image).name}
        told.pop("truth", None)
        digest.update(dumps(told, sort_keys=True, ensure_ascii=False).encode(errors="replace") + b"\n")
    return digest.hexdigest()


def open_picture(image: str, max_pixels: int | None = None, side: int | None = None) -> Image:
    """An RGB picture, upright, as `open_image` reads it. `lab:SEED` is drawn.

    Raises:
        ValueError: a missing or broken file, or one of more than `max_pixels` (None: 50 million).
    """
    if image.startswith(LAB):
        return drawn(int(image.removeprefix(LAB))).image
    from grounddecode.engines.images import open_image

    return open_image(Path(image), max_pixels=max_pixels, side=side)


@lru_cache(maxsize=1024)
def drawn(seed: int) -> Scene:
    """A scene of the lab; the last ones are kept (28 kB each), since questions and pictures need the same."""
    from grounddecode.lab.world import draw

    return draw(seed)


class Pictures:
    """Opened pictures, the last used ones kept up to `capacity` bytes; safe to use from several threads."""

    def __init__(self, capacity: int = 128 * 2**20, max_pixels: int | None = None, side: int | None = None) -> None:
        self.capacity, self.max_pixels, self.side = capacity, max_pixels, side
        self._held: OrderedDict[str, Image] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def open(self, image: str) -> Image:
        """As `open_picture`."""
        with self._lock:
            if image in self._held:
                self._held.move_to_end(image)
                return self._held[image]
        picture = open_picture(image, self.max_pixels, self.side)
        with self._lock:
            if image not in self._held:
                self._held[image] = picture
                self._bytes += _size(picture)
            while self._bytes > self.capacity and len(self._held) > 1:
                self._bytes -= _size(self._held.popitem(last=False)[1])
        return picture


def _size(picture: Image) -> int:
    return picture.width * picture.height * len(picture.getbands())
