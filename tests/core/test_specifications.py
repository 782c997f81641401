"""What the names of plans mean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grounddecode import registry
from grounddecode.cli.asking import with_settings
from grounddecode.registry import plan, plans


@pytest.mark.parametrize(
    ("spec", "decoding", "methods"),
    [
        ("greedy", {}, []),
        ("sample", {"do_sample": True, "temperature": 1.0, "top_p": 1.0}, []),
        ("sample:temperature=0.7", {"do_sample": True, "temperature": 0.7, "top_p": 1.0}, []),
        ("sample+cut", {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "min_p": 0.1}, []),
        ("sample+cut:beta=0.2", {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "min_p": 0.2}, []),
        ("beam:n=3", {"num_beams": 3}, []),
        ("avc", {}, ["avc"]),
        ("greedy+avc", {}, ["avc"]),
        ("locore+avc", {}, ["locore", "avc"]),
        ("sample+avc", {"do_sample": True, "temperature": 1.0, "top_p": 1.0}, ["avc"]),
    ],
)
def test_words(spec: str, decoding: dict[str, object], methods: list[str]) -> None:
    found = plan(spec)
    assert found.name == spec
    assert found.decoding == decoding
    assert [method.name for method in found.methods] == methods


def test_settings_of_methods_are_resolved() -> None:
    told = plan("locore:beta=0.3").to_dict()
    assert told["methods"][0]["beta"] == 0.3
    assert set(told["methods"][0]) > {"name", "beta"}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("cut", "write sample+cut"),
        ("greedy+cut", "write sample+cut"),
        ("sample+beam", "both samples and searches"),
        ("sample:heat=1", "'heat' is no setting of sample"),
        ("greedy:beta=0.3", "greedy has no settings, leave beta out"),
        ("sample:temperature=hot", "sample:temperature is 'hot', give a finite number"),
        ("sample:temperature=0", "sample:temperature is 0, give a finite number above 0"),
        ("sample:temperature=nan", "give a finite number above 0"),
        ("sample:temperature=inf", "give a finite number above 0"),
        ("sample:top_p=0", "give a number above 0, at most 1"),
        ("sample:top_p=1.01", "give a number above 0, at most 1"),
        ("sample+cut:beta=-0.1", "cut:beta is -0.1, give a number from 0 to 1"),
        ("beam:n=2.5", "beam:n is 2.5, give a whole number from 1 to 1000"),
        ("beam:n=0", "give a whole number from 1 to 1000"),
        ("beam:n=100000", "beam:n is 100000, give a whole number from 1 to 1000"),
        ("beam:n=inf", "give a whole number from 1 to 1000"),
        ("sample:temperature", "is no setting, write key=value"),
        ("avc:alpha=1,alpha=2", "^alpha is given twice in 'avc:alpha=1,alpha=2', give it once$"),
        ("sample:temperature=1,temperature=1", "temperature is given twice in"),
        (
            "sample:temperature=0.7+avc+sample",
            "^sample is given twice in 'sample:temperature=0.7.avc.sample', give it once$",
        ),
        ("avk", "did you mean 'avc'"),
        ("greedyy", "did you mean 'greedy'"),
    ],
)
def test_mistakes_are_one_sentence(spec: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("+", r"\+")):
        plan(spec)


def test_each_plan_once_and_at_least_one() -> None:
    assert [one.name for one in plans(["greedy", " avc", "greedy"])] == ["greedy", "avc"]
    with pytest.raises(ValueError, match="no method was given"):
        plans([])


def test_a_plus_within_a_number_divides_nothing() -> None:
    assert [method.to_dict()["alpha"] for method in plan("avc:alpha=1e+1+avc:alpha=2").methods] == [10.0, 2.0]


@pytest.mark.parametrize(
    ("spec", "setting", "said"),
    [
        ("avc", "alpha", "--set 'alpha' is no setting, write key=value"),
        ("sample", "alpha=1", "--set 'alpha=1' has no method to go to"),
        ("avc", "alhpa=1", "'alhpa' is no hyper-parameter of avc, did you mean 'alpha'"),
        ("avc", "alpha=-1", "avc: alpha is -1.0, give a finite number of at least 0"),
    ],
)
def test_settings_beside_a_specification_say_what_is_wrong(spec: str, setting: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_settings(plan(spec), [setting])


def test_the_grammar_stands_in_one_place() -> None:
    """Nothing but the registry takes a specification to pieces."""
    package = Path(registry.__file__).parent
    cut = re.compile(r"""split\(["']\+["']\)""")
    assert not [path for path in package.rglob("*.py") if cut.search(path.read_text(encoding="utf-8"))]
