"""From a real run folder to the page and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grounddecode.evaluate.measures import Scoring
from grounddecode.evaluate.metrics import results
from grounddecode.evaluate.store import RunFolder
from grounddecode.lab import world
from grounddecode.report.write import facts, write


def record(seed: int, method: str, benchmark: str, response: str) -> dict[str, Any]:
    objects = list(world.draw(seed).categories)
    shared = {"image_id": seed, "image": f"lab:{seed}", "status": "ok", "seconds": 0.1, "n_tokens": 5, "method": method}
    if benchmark == "chair":
        facts = {"sample_id": f"chair/{seed}", "split": "", "truth": objects, "prompt": "Describe."}
    else:
        facts = {"sample_id": f"pope/{seed}", "split": "random", "label": "yes", "prompt": "Is there?"}
    return {**shared, **facts, "benchmark": benchmark, "response": response}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Twelve scenes: greedy names what is there, `avc` an elephant, which is in no scene of the lab."""
    folder = RunFolder(tmp_path / "run")
    seeds = range(2_000_000, 2_000_012)
    records = []
    for seed in seeds:
        first = world.draw(seed).categories[0]
        for method, caption in (("greedy", f"A {first}."), ("avc", f"A {first} and an elephant.")):
            records += [record(seed, method, "chair", caption), record(seed, method, "pope", "Yes.")]
    folder.open()
    folder.append(records)
    folder.write_run({"settings": {"model": "lab", "seed": 3}, "versions": {"torch": "2"}, "commit": None})
    folder.write_metrics({"results": results(records, Scoring(resamples=50)), "run": {}})
    folder.close()
    return tmp_path / "run"


def test_a_run_becomes_a_page_and_a_picture(run: Path, tmp_path: Path) -> None:
    page, picture = write(run, tmp_path / "deep" / "out", images=5)
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "deep" / "out" / "index.html"
    assert text.count("<article>") == 5
    assert text.count('title="elephant: not in the picture"') == 5
    assert "5 of the 12 pictures" in text
    assert "CHAIR on 12 pictures" in text
    assert "POPE, 12 yes/no questions" in text
    assert "<dt>settings.seed</dt><dd><code>3</code></dd>" in text
    assert picture is not None
    assert np.asarray(Image.open(picture)).shape[0] > 1000


def test_the_same_run_gives_the_same_files(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(run, tmp_path / name)
    for file in ("index.html", "picture.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_run_without_captions_has_no_picture(run: Path, tmp_path: Path) -> None:
    lines = [line for line in (run / "samples.jsonl").read_text().splitlines() if '"benchmark": "pope"' in line]
    (run / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    page, picture = write(run, tmp_path / "out")
    assert picture is None
    assert "<article>" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("missing", ["run.json", "metrics.json"])
def test_a_folder_that_is_no_finished_run_is_refused(run: Path, tmp_path: Path, missing: str) -> None:
    (run / missing).unlink()
    with pytest.raises(ValueError, match="no finished run folder"):
        write(run, tmp_path / "out")


def test_facts_are_flat_and_leave_out_what_is_unknown() -> None:
    about = {"model": "lab", "versions": {"torch": "2", "vllm": None}, "methods": ["greedy", "avc"], "n": 0}
    assert facts(about) == [("model", "lab"), ("versions.torch", "2"), ("methods", "greedy, avc"), ("n", "0")]
