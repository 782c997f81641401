"""Word lists and tables of `data/`, read once."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def data(name: str) -> Any:
    """The JSON value of one file of `grounddecode/evaluate/data`."""
    return json.loads(resources.files("grounddecode.evaluate.data").joinpath(name).read_text("utf-8"))


def word_list(name: str) -> list[str]:
    """A list of words of `english_words.json`."""
    return " ".join(data("english_words.json")[name]).split()


def word_table(name: str) -> dict[str, str]:
    """A table from word to word of `english_words.json`."""
    return dict(data("english_words.json")[name])
