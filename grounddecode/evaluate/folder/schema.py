"""Whether what a file says is of the declared types, and one sentence with the field's name where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import inf
from reprlib import Repr
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

Fits = Callable[[Any], bool]
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 40
_SHORT.maxlevel = _SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 2
_WORDS: dict[object, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
}


@dataclass(frozen=True)
class Between:
    """Bounds of a number, in `Annotated[int, Between(1)]`; both belong to it."""

    low: float = -inf
    high: float = inf

    def __str__(self) -> str:
        return f"of at least {self.low:g}" if self.high == inf else f"from {self.low:g} to {self.high:g}"


class Misfit(ValueError):
    """Something is not of its declared type; the text names the field and what it should be."""


def check(value: object, declared: Any, name: str = "") -> None:
    """Nothing where `value` is of the declared type: a plain type, or a class of fields with those in it.

    Fields that are not declared are let through.

    Raises:
        Misfit: it is not.
    """
    if fits(declared)(value):
        return
    if is_typeddict(declared) and isinstance(value, Mapping):
        for key, (kind, required) in fields_of(declared).items():
            inner = f"{name}.{key}" if name else key
            if key in value:
                check(value[key], kind, inner)
            elif required:
                raise Misfit(f"the field {inner} is missing")
    where = f"the field {name}" if name else "it"
    raise Misfit(f"{where} is {_SHORT.repr(value)}, give {words(declared)}")


@cache
def fields_of(declared: Any) -> dict[str, tuple[Any, bool]]:
    """Type of each field of a class of fields, and whether it must be there."""
    hints = get_type_hints(declared, include_extras=True)
    return {
        name: (get_args(hint)[0], False) if get_origin(hint) is NotRequired else (hint, True)
        for name, hint in hints.items()
    }


@cache
def fits(declared: Any) -> Fits:
    """A quick test for a declared type, made once."""
    origin, inner = get_origin(declared), get_args(declared)
    if declared in (Any, object):
        return lambda value: True
    if is_typeddict(declared):
        return _all_fields(declared)
    if origin in (Union, UnionType):
        return _one_of([fits(one) for one in inner])
    if origin is Annotated:
        return _bounded(fits(inner[0]), inner[1])
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in inner
    if origin is list:
        return _items((list,), fits(inner[0]))
    if origin is tuple:
        return _items((list, tuple), fits(inner[0]))
    if origin is not None:
        return _mapping(fits(inner[1]))
    return _plain(declared)


def words(declared: Any) -> str:
    """What to give for a declared type."""
    origin, inner = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):
        return " or ".join(words(one) for one in inner)
    if origin is Annotated:
        return f"{words(inner[0])} {inner[1]}"
    if origin is Literal:
        return " or ".join(repr(one) for one in inner)
    if origin in (list, tuple):
        return f"a list of {words(inner[0]).removeprefix('a ')}"
    return _WORDS.get(declared, "an object with its fields")


def _plain(declared: type) -> Fits:
    if declared is float:
        # A whole number of 400 digits is one too, but none that anything can be added to.
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300
    if declared is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if declared is NoneType:
        return lambda value: value is None
    return lambda value: isinstance(value, declared)


def _bounded(test: Fits, bounds: Between) -> Fits:
    low, high = bounds.low, bounds.high
    return lambda value: test(value) and low <= value <= high


def _one_of(tests: list[Fits]) -> Fits:
    first, *others = tests
    return lambda value: first(value) or any(test(value) for test in others)


def _items(kinds: tuple[type[Any], ...], test: Fits) -> Fits:
    return lambda value: isinstance(value, kinds) and all(map(test, value))


def _mapping(test: Fits) -> Fits:
    text = _plain(str)
    return lambda value: isinstance(value, Mapping) and all(map(text, value)) and all(map(test, value.values()))


def _all_fields(declared: Any) -> Fits:
    tests = [(name, fits(kind), required) for name, (kind, required) in fields_of(declared).items()]

    def test_all(value: object) -> bool:
        if not isinstance(value, Mapping):
            return False
        for name, test, required in tests:  # a loop, since a run may have a million lines
            if name in value:
                if not test(value[name]):
                    return False
            elif required:
                return False
        return True

    return test_all
