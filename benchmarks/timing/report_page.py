"""The report page in a real headless Chromium, against the bars that it has to meet.

    python -m benchmarks.timing.report_page --out benchmarks/results/report_page.json

Two runs are made up and reported by the code behind `grounddecode report`: 500 captions and 1,500 questions about the
lab's scenes (2,000 samples listed one by one, 200 pictures), and 200 captions of pictures of 640 x 480 that are nothing
but noise, which no photograph exceeds in bytes. Answers come from the scenes, not from a model: a page is as slow and
large whoever wrote its words. Needs chromium and chromium-driver; every time is the median of `--repeats` page loads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.run.runner import Recipe, bench
from grounddecode.lab import dataset
from grounddecode.lab.captions import article
from grounddecode.lab.world import CATEGORIES, draw
from grounddecode.method import Method
from grounddecode.report.write import write
from tests.support import browser
from tests.support.browser import Browser

#: Milliseconds, megabytes of 10**6 bytes, and pixels. "Without lag" is what a person takes for at once.
BARS = {
    "load_ms": 1000,
    "filter_ms": 100,
    "search_ms": 100,
    "megabytes_of_200": 25,
    "cut_columns": 0,
    "page_width": 390,
}
CAPTIONS, PICTURES, PHONE = 500, 200, BARS["page_width"]
METHODS = ("greedy", "avc", "heads+vcd:share=0.9,alpha=0.7,beta=0.2")  # a name that is wider than a phone
SIZE = (640, 480)

LOAD = "const t = performance.getEntriesByType('navigation')[0]; return t.domComplete - t.startTime"
FILTER = """
const [id, value] = arguments, field = document.getElementById(id), begin = performance.now();
field.value = value;
field.dispatchEvent(new Event(id === "search" ? "input" : "change"));
document.body.offsetHeight;
return [performance.now() - begin, document.getElementById("found").textContent];
"""
#: Cells of the result tables whose words end beyond the card that they stand in, or that stand in a box that scrolls.
CUT = """
const cells = [...document.querySelectorAll("#results tbody td, #results tbody th")].filter(one => one.offsetWidth > 1);
const boxes = [...document.querySelectorAll("#results .scroll")].filter(one => one.scrollWidth > one.clientWidth);
const end = one => {
  const words = document.createRange();
  words.selectNodeContents(one);
  return words.getBoundingClientRect().right;
};
const beyond = cells.filter(one => end(one) > one.closest("tr").getBoundingClientRect().right + 0.5);
return [cells.length, beyond.length + boxes.length, document.documentElement.scrollWidth];
"""


class Speaker:
    """An engine that knows the scenes; each method invents something else, and says it in as many words as a model."""

    name = "speaker"
    max_pixels, side = 50_000_000, None

    def describe(self) -> dict[str, object]:
        return {"engine": self.name, "device": "cpu"}

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        return [self._answer(request, "+".join(m.name for m in methods)) for request in requests]

    def close(self) -> None: ...

    def _answer(self, request: Request, name: str) -> Response:
        benchmark, _, number = request.sample_id.partition("/")
        kind = sum(map(ord, number + name))
        text = ("Yes.", "No.")[kind % 2] if benchmark != "chair" else " ".join(_sentences(int(number), kind))
        return Response(sample_id=request.sample_id, text=text, n_tokens=len(text.split()), seconds=0.1)


def _sentences(seed: int, kind: int) -> Iterator[str]:
    yield "The photo was taken in a kitchen."
    for thing in draw(seed).categories:
        yield f"There is {article(thing)} on the right, next to something that is hard to make out."
    yield f"There is {article(sorted(CATEGORIES)[kind % len(CATEGORIES)])} at the bottom."


def reported(folder: Path, captions: int, data: Path | None = None) -> Path:
    """The page of a run that is made up: so many captions, and three times as many questions where it is the lab's."""
    asked = ("pope", "chair") if data is None else ("chair",)
    recipe = Recipe(
        model="lab", methods=METHODS, benchmarks=asked, limit=captions, batch_size=64, data=data and str(data)
    )
    bench(recipe, folder / "run", opened=Speaker())
    return write(folder / "run", folder / "report")[0]


def noisy(folder: Path, count: int) -> Path:
    """A folder as COCO's, whose pictures are noise."""
    dataset.write(folder / "coco", "evaluation", count)
    random = np.random.default_rng(0)
    for path in (folder / "coco").rglob("*.png"):
        Image.fromarray(random.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(path, compress_level=1)
    return folder


def loads(window: Browser, page: Path, repeats: int) -> dict[str, Any]:
    """Milliseconds until the page stands, and until its list is filtered and searched."""
    rows, found = [], {}
    for _ in range(repeats):
        window.look(1400, 1000)
        window.open(page.as_uri())
        row = {"load_ms": window.run(LOAD)}
        for name, given in (("filter_ms", ("kind", "new")), ("search_ms", ("search", "refrigerator"))):
            row[name], found[name.removesuffix("_ms")] = window.run(FILTER, *given)
        rows.append(row)
    return {name: round(statistics.median(row[name] for row in rows), 1) for name in rows[0]} | {"found": found}


def cut(window: Browser, page: Path) -> dict[str, int]:
    """On a phone: cells of the tables, how many are cut off, and how wide the page is."""
    window.look(PHONE, 844)
    window.open(page.as_uri())
    cells, beyond, width = window.run(CUT)
    return {"cells": cells, "cut_columns": beyond, "page_width": width}


def measured(folder: Path, captions: int = CAPTIONS, pictures: int = PICTURES, repeats: int = 5) -> dict[str, Any]:
    """Every figure, with the bars."""
    many = reported(folder / "many", captions)
    heavy = reported(folder / "heavy", pictures, noisy(folder / "data", pictures))
    with browser.opened() as (window,):
        found = loads(window, many, repeats) | cut(window, many)
        version = window.run("return navigator.userAgent").partition("Chrome/")[2].partition(" ")[0]
    found["megabytes_of_200"] = round(heavy.stat().st_size / 1e6, 2)
    found["met"] = all(found[name] <= bar for name, bar in BARS.items())
    about = {"samples": 4 * captions, "pictures": pictures, "methods": len(METHODS), "repeats": repeats}
    return {"about": about | {"chromium": version, "cpus": os.cpu_count()}, "bars": BARS, "results": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if lacking := browser.missing():
        sys.exit(lacking)
    with tempfile.TemporaryDirectory() as folder:
        result = measured(Path(folder), repeats=options.repeats)
    text = json.dumps({"command": "python -m benchmarks.timing.report_page", **result}, indent=1) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
