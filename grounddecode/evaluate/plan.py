"""Plans: what a name in `--methods` means, a way of choosing tokens and the methods applied to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from grounddecode.registry import METHODS, nearest, parse

if TYPE_CHECKING:
    from grounddecode.method import Method

GREEDY = "greedy"
# How tokens are chosen: the settings of a word, under their `Decoding` names, with what holds when none are given.
_WORDS: dict[str, dict[str, tuple[str, float]]] = {
    "sample": {"temperature": ("temperature", 1.0), "top_p": ("top_p", 1.0)},
    "cut": {"beta": ("min_p", 0.1)},
    "beam": {"n": ("num_beams", 5)},
}
_POSSIBLE: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 < value < inf, "a number above 0"),
    "top_p": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "min_p": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "num_beams": (lambda value: value >= 1 and value.is_integer(), "a whole number of at least 1"),
}


@dataclass(frozen=True)
class Plan:
    """One column of a bench: its name as given, fields of `Decoding`, and methods."""

    name: str
    decoding: Mapping[str, Any]
    methods: tuple[Method, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, every hyper-parameter resolved."""
        return {"decoding": dict(self.decoding), "methods": [method.to_dict() for method in self.methods]}


def plan(spec: str) -> Plan:
    """The plan of a specification: parts joined by `+`, each with optional `:key=value,...` settings.

    `greedy` (the default), `sample` (`temperature`, `top_p`, both 1), `sample+cut` (sampling among the tokens with at
    least `beta` = 0.1 of the best one's probability: the plausibility cut of contrastive decoders alone),
    `beam` (`n` = 5), and any method of the registry: `avc`, `locore:beta=0.3`, `locore+avc`, `sample+avc`.

    Raises:
        ValueError: an unknown word, method or setting, or a cut without sampling.
    """
    decoding: dict[str, Any] = {}
    rest: list[str] = []
    for part in spec.split("+"):
        word, _, settings = part.strip().partition(":")
        if word in _WORDS:
            decoding |= _decoding(word, settings)
        elif word in METHODS:
            rest.append(part.strip())
        elif word != GREEDY:
            raise ValueError(nearest(word, [GREEDY, *_WORDS, *METHODS], "method"))
    if "min_p" in decoding and not decoding.get("do_sample"):
        raise ValueError(f"{spec!r} cuts what greedy decoding never takes: write sample+cut")
    if decoding.get("do_sample") and "num_beams" in decoding:
        raise ValueError(f"{spec!r} both samples and searches with beams: choose one")
    return Plan(spec, decoding, parse("+".join(rest)))


def plans(specs: Sequence[str]) -> list[Plan]:
    """Plans of several specifications, each once.

    Raises:
        ValueError: none given, or one that is wrong.
    """
    found = [plan(spec) for spec in dict.fromkeys(name.strip() for name in specs) if spec]
    if not found:
        raise ValueError("no method was given: name at least one, such as greedy")
    return found


def _decoding(word: str, settings: str) -> dict[str, Any]:
    known = _WORDS[word]
    values = dict(known.values())
    for item in filter(None, settings.split(",")):
        key, equals, value = (text.strip() for text in item.partition("="))
        if not equals:
            raise ValueError(f"{item!r} in {word}:{settings} is no setting, write key=value")
        if key not in known:
            raise ValueError(nearest(key, known, f"setting of {word}"))
        values[known[key][0]] = _number(f"{word}:{key}", known[key][0], value)
    if word == "beam":
        values["num_beams"] = int(values["num_beams"])
    return values | ({"do_sample": True} if word == "sample" else {})


def _number(name: str, field: str, value: str) -> float:
    """The value of a field of `Decoding`. Raises ValueError for what it cannot be."""
    possible, told = _POSSIBLE[field]
    try:
        found = float(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}, give {told}") from None
    if not possible(found):
        raise ValueError(f"{name} is {value}, give {told}")
    return found
