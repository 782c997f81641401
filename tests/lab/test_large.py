"""The larger size of the second lab's training: its recipe and its command line."""

from dataclasses import replace

import pytest

from grounddecode.lab.second import command
from grounddecode.lab.second.recipe import LARGE, SIZES, Recipe
from grounddecode.lab.second.words import words


def parsed(*given):
    return command._recipe(command._parser().parse_args(list(given)))


def test_the_large_recipe_is_what_the_gates_asked_for_next():
    assert LARGE.layers >= 8
    assert LARGE.width >= 192
    assert LARGE.width // LARGE.heads == 32
    assert LARGE.text_steps * LARGE.text_batch * LARGE.texts.length >= 50e6
    assert LARGE.course.joint_rate == pytest.approx(LARGE.course.rate / 10)
    assert len(words(LARGE.texts.names)) / LARGE.width > 8  # words a dimension: what sinks in text hung on
    assert LARGE.split("evaluation") == "evaluation3"


def test_every_amount_and_every_rate_can_be_given():
    assert parsed() == SIZES["small"] == Recipe()
    assert parsed("--size", "large") == LARGE
    found = parsed("--size", "large", "--joint-rate", "1e-3", "--text-share", "0.5", "--layers", "10", "--world", "2")
    assert found == replace(
        LARGE, layers=10, world=2, course=replace(LARGE.course, joint_rate=1e-3, text_share=0.5)
    )  # fmt: skip


def test_a_tower_of_another_world_or_size_is_not_taken_from_the_cache(tmp_path):
    kinds = [LARGE, replace(LARGE, world=2), replace(LARGE, tower_layers=4), replace(LARGE, tower_width=128), Recipe()]
    assert len({recipe.tower_file(tmp_path, 0) for recipe in kinds}) == len(kinds)
