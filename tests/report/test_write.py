"""From a real run folder to the page and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.runner import Recipe, bench
from grounddecode.lab import world
from grounddecode.method import Method
from grounddecode.report.write import facts, write


class Witness:
    """An engine that knows the scenes; under a method it sees an elephant that is not there."""

    name = "witness"

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
    assert "5 of the 12 pictures" in text
    assert text.count("<table>") == 4
    assert text.index("CHAIR, 12 samples") < text.index("POPE random, 12 samples")
    assert "<dt>settings.seed</dt><dd><code>3</code></dd>" in text
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


def test_facts_are_flat_and_leave_out_what_is_unknown() -> None:
    about = {"model": "lab", "versions": {"torch": "2", "vllm": None}, "methods": ["greedy", "avc"], "n": 0}
    assert facts(about) == [("model", "lab"), ("versions.torch", "2"), ("methods", "greedy, avc"), ("n", "0")]
