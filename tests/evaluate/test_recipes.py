"""Recipes: the committed ones name things that exist, and wrong ones are one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from grounddecode.evaluate.benchmarks import names
from grounddecode.evaluate.plans import plans
from grounddecode.evaluate.recipes import read, run
from tests.evaluate.fake import FakeEngine, write_folder

RECIPES = sorted((Path(__file__).parents[2] / "benchmarks" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_committed_recipes_name_what_exists(path: Path) -> None:
    found = read(path)
    assert "greedy" in [plan.name for plan in plans(found.methods)]
    assert set(found.benchmarks) <= set(names())
    assert found.scoring()


def test_a_recipe_runs_with_changes(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    data = write_folder(tmp_path / "data")
    recipe.write_text(f"about: a test\nmodel: fake\ndata: {data}\nmethods: [greedy]\nbenchmarks: [chair]\nlimit: 5\n")
    metrics = run(recipe, tmp_path / "run", limit=2, resamples=10, opened=FakeEngine())
    assert metrics["results"]["greedy"]["chair"]["n"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: lab\nmethod: [greedy]", "did you mean 'methods'"),
        ("model: lab\nopened: x", "'opened' is no argument of bench"),
        ("methods: [greedy]", "names no model"),
        ("- a\n- b", "names no model"),
        ("a: [", "cannot be read"),
        ("model: lab\nengine_options: [float32]", "are no mapping"),
    ],
)
def test_wrong_recipes_are_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read(tmp_path / "r.yaml")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "none.yaml")
