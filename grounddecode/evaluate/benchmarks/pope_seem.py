"""POPE on pictures of A-OKVQA and of GQA, whose objects SEEM found: its authors' other two sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.benchmarks import sources
from grounddecode.evaluate.benchmarks.base import Benchmark, Wanted
from grounddecode.evaluate.benchmarks.pope import Pope, asked
from grounddecode.evaluate.data.items import COCO_IMAGES, Item
from grounddecode.evaluate.sample import Sample
from grounddecode.evaluate.scoring.pope_questions import STRATEGIES

_RELEASE = "https://raw.githubusercontent.com/AoiDragon/POPE/08d957b917e5a378a2f99d35b6293c536a66298b/output/seem/"
#: By set and split: size and SHA-256.
_RELEASED = {
    "aokvqa": {
        "random": (495_827, "f06eecde6d6ef4a00b95a7bbb510490708a09a6a67d952b59b8bdd33ac2c7200"),
        "popular": (492_597, "2ae5bedee3450cda52f9b033942c7b04a3917a86a110e859a66c1e41934c6ffd"),
        "adversarial": (494_039, "2ddd3bdfa0df7a77a2cb1765ed06ac5ed190b5a093aa405b96986e862e8cdac1"),
    },
    "gqa": {
        "random": (441_272, "6ce488eade3770185034939fabfe742fa32ed369011c8d9c3ac77bc0c85abd94"),
        "popular": (438_334, "dd03f06a458dd216e83233160fbf6628af9c63c84b11e99599f4fc0304b3361d"),
        "adversarial": (439_786, "74e01b41d8308e2392e3b8d961167496ff3901c01100265d931a7a392f138a7a"),
    },
}
GQA_IMAGES = Item(
    "gqa images",
    ("gqa/images", "images"),
    "Visual Genome, CC BY 4.0",
    21_745_409_000,
    where="unpack images.zip (20 GB) of https://cs.stanford.edu/people/dorarad/gqa/download.html there",
)


def _files(name: str) -> Mapping[str, Item]:
    return {
        split: Item(
            f"pope-{name} {split}",
            (f"pope-{name}/{name}_pope_seem_{split}.json", f"pope/{name}_pope_seem_{split}.json"),
            "MIT",
            size,
            f"{_RELEASE}{name}/{name}_pope_seem_{split}.json",
            sha256,
        )
        for split, (size, sha256) in _RELEASED[name].items()
    }


def _samples(name: str, images: Item, wanted: Wanted) -> Iterator[Sample]:
    """The released files, arrays of POPE's questions."""
    root, benchmark = sources.root_of(wanted), f"pope-{name}"
    folder = sources.place_of(images, root, benchmark)
    for split, item in _files(name).items():
        path = sources.place_of(item, root, benchmark)
        yield from asked(benchmark, split, json_lines.read(path)[: wanted.limit], folder, path.name)


def _benchmark(name: str, title: str, images: Item) -> Benchmark:
    return Benchmark(
        name=f"pope-{name}",
        title=title,
        parts=dict.fromkeys(STRATEGIES, Pope()),
        items=(*_files(name).values(), images),
        samples=partial(_samples, name, images),
    )


POPE_AOKVQA = _benchmark("aokvqa", "POPE A-OKVQA", COCO_IMAGES)
POPE_GQA = _benchmark("gqa", "POPE GQA", GQA_IMAGES)
