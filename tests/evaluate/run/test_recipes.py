"""Recipes: the committed ones name things that exist, and wrong ones are one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from grounddecode.evaluate.benchmarks.table import names
from grounddecode.evaluate.run.recipe import read
from grounddecode.evaluate.run.runner import run
from grounddecode.registry import plans
from tests.evaluate.fake import FakeEngine, write_folder

RECIPES = sorted((Path(__file__).parents[3] / "benchmarks" / "recipes").glob("*.yaml"))


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
        ("model: lab\nlimit: many", "limit is 'many', give a whole number or null"),
        ("model: lab\nmethods: [[greedy]]", "methods is .*, give a list of text"),
        ("model: lab\nmethods: 7", "methods is 7, give a list of text"),
        ("model: [lab]", "model is .'lab'., give text"),
        ("model: 2026-01-01", "model is datetime.*, give text"),
        ("model: !!python/object/apply:os.getcwd []", "cannot be read"),
        ("[" * 100_000, "cannot be read: it is nested too deeply"),
        ("model: lab\nlimit: 3\nlimit: 4\n", "cannot be read: limit is given twice in it, give it once$"),
        ("model: lab\nengine_options: {device: cpu, device: cuda}\n", "device is given twice in it"),
    ],
)
def test_wrong_recipes_are_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path / "r.yaml")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "none.yaml")


def test_a_few_lines_that_stand_for_too_much_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [greedy, greedy, greedy, greedy, greedy, greedy, greedy, greedy, greedy, greedy]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 10)]
    (tmp_path / "r.yaml").write_text("\n".join([*lines, "model: lab", "methods: *a9", "engine_options: {extra: *a9}"]))
    with pytest.raises(ValueError, match=r"cannot be read: it has an alias \(\*name\): write the value out"):
        read(tmp_path / "r.yaml")


def test_a_recipe_may_be_written_as_the_command_line_is(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: lab\nmethods: greedy,avc:alpha=1,beta=0.1\nbenchmarks: chair\n")
    found = read(tmp_path / "r.yaml")
    assert (found.methods, found.benchmarks) == (("greedy", "avc:alpha=1,beta=0.1"), ("chair",))


def test_more_resamples_than_memory_has_room_for_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: lab\nresamples: 1000000000\n")
    with pytest.raises(ValueError, match="resamples is 1000000000: give a number from 1 to 10000"):
        run(tmp_path / "r.yaml", tmp_path / "run")
    assert not (tmp_path / "run").exists()
