"""From a real run folder to the page and the picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.run.runner import Recipe, bench
from grounddecode.lab import world
from grounddecode.method import Method
from grounddecode.report.provenance import facts
from grounddecode.report.write import write
from tests.evaluate.fake import FakeEngine, room, write_folder


class Witness:
    """An engine that knows the scenes; under a method it sees an elephant that is not there."""

    name = "witness"
    max_pixels, side = 1_000_000, None

    def describe(self) -> dict[str, object]:
        return {"engine": self.name, "device": "cpu"}

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        return [Response(sample_id=r.sample_id, text=self._say(r, methods), n_tokens=5, seconds=0.1) for r in requests]

    def close(self) -> None: ...

    def _say(self, request: Request, methods: Sequence[Method]) -> str:
        benchmark, _, seed = request.sample_id.partition("/")
        if benchmark != "chair":
            return "Yes."
        seen = world.draw(int(seed)).categories[0]
        return f"A {seen} and an elephant." if methods else f"A {seen}."


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    bench(Recipe(model="lab", methods=("greedy", "avc"), limit=12, seed=3, resamples=50), folder, opened=Witness())
    return folder


def test_a_run_becomes_a_page_and_a_picture(run: Path, tmp_path: Path) -> None:
    page, picture = write(run, tmp_path / "deep" / "out", images=5)
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "deep" / "out" / "index.html"
    assert text.count("<article>") == 5
    assert text.count('title="elephant: not in the picture"') == 5
    assert "In 12 of the 12 pictures a method says something else than greedy or another method" in text
    assert "3 of the 10 pictures that are left; nobody picked them." in text
    assert text.count("<table>") == 4
    assert text.index("CHAIR, 12 samples") < text.index("POPE random, 12 samples")
    assert "<dt>seed</dt><dd><code>3</code></dd>" in text
    assert "not finished" not in text
    assert picture is not None
    assert np.asarray(Image.open(picture)).shape[0] > 1000


def test_the_same_run_gives_the_same_files(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(run, tmp_path / name)
    for file in ("index.html", "picture.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_run_without_captions_has_no_picture(tmp_path: Path) -> None:
    bench(Recipe(model="lab", benchmarks=("pope",), limit=6, resamples=50), tmp_path / "run", opened=Witness())
    page, picture = write(tmp_path / "run", tmp_path / "out")
    assert picture is None
    assert "<article>" not in page.read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "picture.png").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder"):
        write(tmp_path, tmp_path / "out")


def test_facts_are_grouped_and_leave_out_what_is_unknown(run: Path) -> None:
    about: dict[str, Any] = dict(RunFolder(run).stored_run())
    about["engine"] = {"model": "lab", "url": None, "extra": {}, "note": ""}
    groups = {group.heading: dict(group.values) for group in facts(about)}
    assert groups[""]["samples of each split"] == "12"
    assert groups["Methods"]["greedy"] == "the likeliest token at each step"
    assert groups["Methods"]["avc"].startswith("avc alpha ")
    assert groups["Engine"] == {"model": "lab"}
    assert "plans" not in groups["Settings"]
    assert list(groups)[:2] == ["", "Methods"]


class Stops(Witness):
    """Ends after so many batches."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        if self.batches == 0:
            raise KeyboardInterrupt
        self.batches -= 1
        return super().generate(requests, decoding, methods)


@pytest.mark.parametrize("batches", [0, 1, 2, 4])
def test_an_unfinished_run_is_shown_as_far_as_it_is(tmp_path: Path, batches: int) -> None:
    recipe = Recipe(model="lab", methods=("greedy", "sample"), limit=12, resamples=50)
    with pytest.raises(KeyboardInterrupt):
        bench(recipe, tmp_path / "run", opened=Stops(batches))
    page, _ = write(tmp_path / "run", tmp_path / "out")
    there = len(RunFolder(tmp_path / "run").records())
    assert f"The run is not finished: {there} of 96 answers are in." in page.read_text(encoding="utf-8")
    with RunFolder(tmp_path / "run"):  # as while another process writes to it
        write(tmp_path / "run", tmp_path / "out")


def test_a_run_and_its_data_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("here/data"))
    bench(Recipe(model="fake", data="here/data", resamples=10), "here/run", opened=FakeEngine())
    stored = (tmp_path / "here" / "run" / "samples.jsonl").read_text()
    assert '"image": "images/X_000.png"' in stored  # as seen from the data folder

    def gone() -> int:
        page, _ = write(Path("run" if Path("run").exists() else "here/run"), tmp_path / "out")
        return page.read_text(encoding="utf-8").count("The picture is not where it was.")

    assert gone() == 0
    monkeypatch.chdir(tmp_path / "here")
    assert gone() == 0  # another working directory
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert gone() == 0  # both moved
    (tmp_path / "there" / "data").rename(tmp_path / "elsewhere")
    assert gone() == 6
    page, _ = write(Path("run"), tmp_path / "out", data=tmp_path / "elsewhere")
    assert "The picture is not where it was." not in page.read_text(encoding="utf-8")


def test_a_refused_method_has_a_row_that_says_why(run: Path, tmp_path: Path) -> None:
    about: dict[str, Any] = dict(RunFolder(run).stored_run())
    with RunFolder(run) as folder:
        folder.write_run(about | {"refused": {"avc": "avc needs <more>, use another model"}})
    page, _ = write(run, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert text.count("refused: avc needs &lt;more&gt;, use another model") == 4
    assert "not finished" not in text


def test_a_page_that_cannot_be_written_leaves_the_old_one(run: Path, tmp_path: Path) -> None:
    page, _ = write(run, tmp_path / "out")
    before = page.read_bytes()
    with room(1000), pytest.raises(OSError, match=r"index\.html"):
        write(run, tmp_path / "out", images=1)
    assert page.read_bytes() == before
    assert sorted(os.listdir(tmp_path / "out")) == ["index.html", "picture.png"]


def test_half_a_pair_does_not_stop_the_page(tmp_path: Path) -> None:
    class Broken(Witness):
        def _say(self, request: Request, methods: Sequence[Method]) -> str:
            return super()._say(request, methods) + " \ud800"

    recipe = Recipe(model="lab", methods=("greedy", "avc"), limit=4, resamples=10)
    bench(recipe, tmp_path / "run", opened=Broken())
    page, picture = write(tmp_path / "run", tmp_path / "out")
    assert "\N{REPLACEMENT CHARACTER}" in page.read_text(encoding="utf-8")
    assert picture is not None
