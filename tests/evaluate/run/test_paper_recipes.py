"""The papers' recipes run end to end: on a tiny random model of the same class, and a COCO-shaped folder of the lab."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.pages import beside
from grounddecode.evaluate.run.recipe import read
from grounddecode.evaluate.run.runner import run
from grounddecode.lab import dataset
from tests.support.stand_ins import STAND_INS

RECIPES = sorted((Path(__file__).parents[3] / "benchmarks" / "recipes").glob("paper_*.yaml"))
PAPERS = {"llava-hf/llava-1.5", "Salesforce/instructblip", "Qwen/Qwen2.5-VL", "llava-hf/llava-onevision"}
VIDEO = ("Qwen/", "llava-hf/llava-onevision")
HERE = ("chair", "pope")  # AMBER and MME have pictures of their own


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset.write(tmp_path_factory.mktemp("coco"), "evaluation", 8)


def test_every_model_of_the_papers_has_a_recipe_and_every_recipe_a_stand_in() -> None:
    models = {read(path).model for path in RECIPES}
    assert {name for name in PAPERS if any(model.startswith(name) for model in models)} == PAPERS
    assert [model for model in models if not any(model.startswith(name) for name in STAND_INS)] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_papers_recipe_runs(path: Path, coco: Path, tmp_path: Path) -> None:
    recipe = read(path)
    if recipe.model.startswith(VIDEO) and find_spec("torchvision") is None:
        pytest.skip("needs torchvision, as the processors of models that read videos do")
    build = next(made for name, made in STAND_INS.items() if recipe.model.startswith(name))
    # A random model has no sinks to find: VAR is told a dimension, as a calibration would.
    methods = [spec.replace("var:rho=0.5", "var:rho=0.5,sink_dims=3") for spec in recipe.methods]
    metrics = run(
        path, tmp_path / "run", model=str(build(tmp_path / "model")), data=str(coco), ids=None, methods=tuple(methods),
        benchmarks=tuple(b for b in recipe.benchmarks if b in HERE), limit=2, max_new_tokens=3, resamples=10,
        amber_similarity="exact", engine_options={"device": "cpu", "dtype": "float32"},
    )  # fmt: skip
    assert metrics["run"]["n_failed"] == 0
    assert set(metrics["results"]) == set(methods)
    rows = list(beside.rows(tmp_path / "run", recipe.model))
    assert {row["method"] for row in rows} == {beside.plain(spec) for spec in methods}
    assert any(
        row["benchmark"].startswith(recipe.benchmarks[0] if recipe.benchmarks[0] in HERE else "pope") for row in rows
    )
    assert beside.table(rows).count("\n") >= len(rows)
    json.dumps(rows)
