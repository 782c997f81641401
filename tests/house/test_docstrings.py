"""What every method says of itself: formula, shapes, units, ranges, errors, source, and an example that runs."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

import grounddecode
from grounddecode import lab, registry
from grounddecode.lab.anatomy import prompt
from grounddecode.lab.captions import LONG_PROMPTS
from grounddecode.lab.world import draw

SAYS = ("Formula:", "Shapes:", "Units:", "Ranges:", "Errors:", "Example:", "arXiv")
METHODS = [registry.method_class(name) for name in registry.METHODS]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the examples take as given: a model, its processor, and a prompt with a picture."""
    model, processor = lab.load()
    inputs = processor(text=[prompt(LONG_PROMPTS[0])], images=[draw(2_000_000).image], return_tensors="pt")
    return {"ground": grounddecode.ground, "model": model, "processor": processor, "inputs": inputs}


@pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls.name)
def test_every_part_is_there(method: type) -> None:
    text = method.__doc__ or ""
    assert not [word for word in SAYS if word not in text]
    assert sum(line.lstrip().startswith((">>>", "...")) for line in text.splitlines()) == 3


@pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls.name)
def test_the_example_runs_and_says_what_it_says(method: type, names: dict[str, Any]) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(method, globs=names | {method.__name__: method})
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=told.append)
    assert not told, "".join(told)
