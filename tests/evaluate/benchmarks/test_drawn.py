"""The bench on the shipped model: drawn scenes and a COCO folder, through the real engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grounddecode import lab
from grounddecode.engines.base import Decoding, Request, open_engine
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.run.runner import Recipe, bench
from grounddecode.lab import dataset
from grounddecode.lab.world import SPLITS, draw


def installed() -> bool:
    try:
        lab.checkpoint()
    except ValueError:
        return False
    return True


pytestmark = pytest.mark.skipif(not installed(), reason="the lab checkpoint is not installed")


def test_a_coco_folder_of_the_lab_is_answered_as_the_drawn_scenes_are(tmp_path: Path) -> None:
    dataset.write(tmp_path / "data" / "coco", "evaluation", 4)
    engine = open_engine("hf", "lab", dtype="float32", device="cpu")
    options = {"methods": ["greedy", "locore:beta=0.0"], "benchmarks": ["chair"], "resamples": 20}
    recipe = Recipe(model="lab", max_new_tokens=24, batch_size=2, **options)
    read = bench(replace(recipe, data=str(tmp_path / "data")), tmp_path / "read", opened=engine)
    drawn = bench(replace(recipe, limit=4), tmp_path / "drawn", opened=engine)
    answers = {
        run: {(r["method"], r["image_id"]): r["response"] for r in RunFolder(tmp_path / run).records()}
        for run in ("read", "drawn")
    }
    first = SPLITS["evaluation"].start
    request = Request(sample_id="x", prompt="Describe this image in detail.", images=(draw(first).image,))
    (alone,) = engine.generate([request], Decoding(max_new_tokens=24))
    assert answers["drawn"]["greedy", first] == alone.text
    assert len(answers["read"]) == 8
    # The folder draws its images in another order: other batches, the same pictures.
    assert answers["read"] == answers["drawn"]
    for metrics in (read, drawn):
        greedy, neutral = (metrics["results"][name]["chair"] for name in ("greedy", "locore:beta=0.0"))
        assert greedy["n_mentions"] > 0
        assert neutral["vs_greedy"]["words"] == {"difference": 0.0, "ci": [0.0, 0.0], "verdict": ""}
        assert metrics["results"]["greedy"]["cost"]["n_tokens"] > 0
        assert metrics["run"]["engine"]["class"] == "LlavaForConditionalGeneration"
    assert len(read["run"]["settings"]["weights"]) == 64


def test_a_run_says_which_scenes_it_is_of(tmp_path: Path) -> None:
    recipe = Recipe(model="lab", benchmarks=("chair",), limit=2, max_new_tokens=4, resamples=10)
    engine = open_engine("hf", "lab", dtype="float32", device="cpu")
    tuned = bench(replace(recipe, split="calibration"), tmp_path, opened=engine)
    assert tuned["run"]["settings"]["split"] == "calibration"
    assert {r["image_id"] for r in RunFolder(tmp_path).records()} == set(SPLITS["calibration"][:2])
    with pytest.raises(ValueError, match="holds a run with split calibration, not unset"):
        bench(recipe, tmp_path, opened=engine)
