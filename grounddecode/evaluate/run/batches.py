"""Batches: samples that ask the same thing put together, and those of similar length beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grounddecode.evaluate.sample import Pictures, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

AHEAD = 2  # batches whose pictures are opened while one is answered


@dataclass(frozen=True)
class Unit:
    """Samples with the same picture, prompt and length: asked once, the answer holds for all of them."""

    samples: tuple[Sample, ...]

    @property
    def first(self) -> Sample:
        return self.samples[0]


@dataclass(frozen=True)
class Opened:
    """A unit with its picture, or with the reason why there is none."""

    unit: Unit
    picture: Image | None
    error: str = ""


def shard_of(samples: Sequence[Sample], shard: str | None) -> list[Sample]:
    """The samples of shard `"i/n"`, i from 1 to n: every n-th picture with all that is asked about it.

    Raises:
        ValueError: a shard that is not of that form.
    """
    if shard is None:
        return list(samples)
    index, count = parse_shard(shard)
    place = {image: at for at, image in enumerate(dict.fromkeys(sample.image for sample in samples))}
    return [sample for sample in samples if place[sample.image] % count == index - 1]


def parse_shard(shard: str) -> tuple[int, int]:
    """`"2/8"` as (2, 8)."""
    left, _, right = shard.partition("/")
    if not (left.isdecimal() and right.isdecimal() and 1 <= int(left) <= int(right)):
        raise ValueError(f"the shard is {shard!r}: write i/n with i from 1 to n, such as 1/4")
    return int(left), int(right)


def units(samples: Sequence[Sample]) -> list[Unit]:
    """Samples that ask the same thing, together; in the order of their first samples."""
    together: dict[tuple[str, str, int], list[Sample]] = {}
    for sample in samples:
        together.setdefault((sample.image, sample.prompt, sample.max_new_tokens), []).append(sample)
    return [Unit(tuple(group)) for group in together.values()]


def batches(todo: Sequence[Unit], size: int) -> list[list[Unit]]:
    """Groups of at most `size` units with one length of answer and prompts of similar length.

    The same units and size give the same groups every time: a resumed run answers in the batches of the first start.
    """
    order = {length: at for at, length in enumerate(dict.fromkeys(unit.first.max_new_tokens for unit in todo))}
    ranked = sorted(todo, key=lambda unit: (order[unit.first.max_new_tokens], len(unit.first.prompt)))
    groups: list[list[Unit]] = []
    for unit in ranked:
        last = groups[-1] if groups else []
        if last and len(last) < size and last[0].first.max_new_tokens == unit.first.max_new_tokens:
            last.append(unit)
        else:
            groups.append([unit])
    return groups


def opened(groups: Sequence[Sequence[Unit]], pictures: Pictures) -> Iterator[list[Opened]]:
    """The groups in order, each with its pictures; threads open those of the next groups meanwhile."""

    def open_all(group: Sequence[Unit]) -> list[Opened]:
        return [open_unit(unit, pictures) for unit in group]

    with ThreadPoolExecutor(max_workers=AHEAD, thread_name_prefix="pictures") as pool:
        waiting: list[Future[list[Opened]]] = [pool.submit(open_all, group) for group in groups[:AHEAD]]
        try:
            for at in range(len(groups)):
                result = waiting.pop(0).result()
                if at + AHEAD < len(groups):
                    waiting.append(pool.submit(open_all, groups[at + AHEAD]))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def open_unit(unit: Unit, pictures: Pictures) -> Opened:
    """A unit with its picture, or why there is none."""
    try:
        return Opened(unit, pictures.open(unit.first.image))
    except Exception as error:  # a broken picture makes its reader raise whatever it likes
        return Opened(unit, None, str(error) or type(error).__name__)
