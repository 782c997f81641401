"""What a hyper-parameter may be, read off its one declaration: in words, from text, checked, and as JSON schema."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

if TYPE_CHECKING:
    from grounddecode.method import Method

V = TypeVar("V")
_LARGEST = (2 - 2**-23) * 2.0**127  # of float32


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where the numbers of a hyper-parameter lie, each entry's where it has several.

    `open_low`, `open_high`: the bound itself is outside. `filled`: a tuple has one entry at least. `span`: it is the
    two ends lo;hi of a half-open range, lo <= hi.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    filled: bool = False
    span: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return bool(above and below)

    @property
    def interval(self) -> str:
        """As help texts write it: `>= 0`, `in (0, 1]`, or nothing."""
        if math.isinf(self.high):
            return "" if math.isinf(self.low) else f"{'>' if self.open_low else '>='} {self.low:g}"
        return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"

    @property
    def words(self) -> str:
        """As error sentences write it, behind "a number"."""
        low = f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        if math.isinf(self.high):
            return "" if math.isinf(self.low) else low
        if self.open_low or self.open_high:
            return f"{low} and {'below' if self.open_high else 'at most'} {self.high:g}"
        return f"between {self.low:g} and {self.high:g}"

    @property
    def bounds(self) -> dict[str, float]:
        """As JSON schema writes it."""
        low = {"exclusiveMinimum" if self.open_low else "minimum": self.low}
        high = {"exclusiveMaximum" if self.open_high else "maximum": self.high}
        return {name: bound for name, bound in (low | high).items() if math.isfinite(bound)}


def option(
    default: Any,
    help: str,
    *,
    source: str = "paper",
    neutral: Any = MISSING,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
    filled: bool = False,
    span: bool = False,
    compare: bool = True,
) -> Any:
    """A dataclass field of a method: the one place that says what its values may be.

    Args:
        default: the default value.  help: one line for `--help` and the docs; the range is put before its first "; ".
        source: where the default comes from: "paper", "released" (code) or "ours".
        neutral: the value at which the method does nothing, for the one field that switches it off.
        low, high, open_low, open_high, filled, span: see `Range`. `Method` checks them, and the choices of a `Literal`.
        compare: False for large tables, which would make a method slow to compare; methods of other tables are equal.
    """
    within = Range(low=low, high=high, open_low=open_low, open_high=open_high, filled=filled, span=span)
    what, mark, rest = help.partition("; ")
    metadata: dict[str, Any] = {"source": source, "range": within}
    metadata["help"] = (f"{what}, {within.interval}" if within.interval else what) + mark + rest
    if neutral is not MISSING:
        metadata["neutral"] = neutral
    return dataclasses.field(default=default, metadata=metadata, compare=compare, repr=compare)


def range_of(field: Field[Any]) -> Range:
    """The range that a field was declared with."""
    return typing.cast("Range", field.metadata.get("range", Range()))


def kinds(cls: type[Method]) -> dict[str, Any]:
    """The type of every field of a method."""
    return _kinds(typing.cast("Any", cls))  # mypy takes the hash of its instances for that of the class


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


# -- values ------------------------------------------------------------------------------------------------------------
def check(method: Method) -> None:
    """Raise ValueError for the first hyper-parameter that is outside of what was declared for it."""
    for field in fields(method):
        kind, value = kinds(type(method))[field.name], getattr(method, field.name)
        if _overflows(value):
            raise ValueError(f"{method.name}: {field.name} is {value}, give what float32 holds, below 3.4e38")
        if not _fits(kind, value, range_of(field)):
            given = repr(value) if isinstance(value, str) else value
            raise ValueError(f"{method.name}: {field.name} is {given}, give {_within(kind, range_of(field))}")


def _overflows(value: Any) -> bool:
    """Whether a finite number is too large for float32."""
    if isinstance(value, tuple | list):
        return any(map(_overflows, value))
    return isinstance(value, int | float) and math.inf > abs(value) > _LARGEST


def _fits(kind: Any, value: Any, within: Range) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(option, value, within) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        several = isinstance(value, tuple | list) and bool(value or not within.filled)
        if several and within.span and (len(value) != 2 or value[0] > value[1]):
            return False
        return several and all(_fits(get_args(kind)[0], item, _each(within)) for item in value)
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and math.isfinite(value) and within.holds(value)
    return isinstance(value, kind)


def _each(within: Range) -> Range:
    """The range of the entries: only the outermost tuple is known to be filled."""
    return Range(low=within.low, high=within.high, open_low=within.open_low, open_high=within.open_high)


def read(method: str, field: Field[Any], kind: Any, value: Any) -> Any:
    """`value` as the declared type of the field; strings are read. Raises ValueError with what would be right."""
    options = _options(kind)
    if value is None or (value in ("none", "None") and type(None) in options):
        return None
    for option in options:
        try:
            return _as(option, value)
        except (TypeError, ValueError):
            continue
    raise ValueError(f"{method}: {field.name} is {value!r}, give {_wanted(options)}")


def _as(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise ValueError
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        items = value.split("/" if get_origin(item) is tuple else ";") if isinstance(value, str) else list(value)
        return tuple(_as(item, entry) for entry in items if entry != "")
    if kind is bool:
        return _as_bool(value)
    if kind is type(None) or (kind is str and not isinstance(value, str)):
        raise ValueError
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return kind(value)


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    lowered = str(value).lower()
    if lowered in ("true", "1", "yes", "on"):
        return True
    if lowered in ("false", "0", "no", "off"):
        return False
    raise ValueError


def once(pairs: Iterable[tuple[str, V]], where: str) -> dict[str, V]:
    """Values by their names. Raises ValueError for a name that is given twice `where`: none wins silently."""
    found: dict[str, V] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} is given twice {where}, give it once")
        found[name] = value
    return found


# -- words -------------------------------------------------------------------------------------------------------------
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "none"}


def _listed(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _wanted(options: Iterable[Any]) -> str:
    """What a value of one of these types looks like when it is written down."""
    return _listed([word for kind in options for word in _written(kind)])


def _written(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    if get_origin(kind) is not tuple:
        return [_WORDS.get(kind, getattr(kind, "__name__", str(kind)))]
    item = get_args(kind)[0]
    if get_origin(item) is tuple:
        return ["rows of numbers such as 1;2/3;4"]
    return ["whole numbers such as 9;10" if item is int else "numbers such as 0.5;1"]


def _within(kind: Any, within: Range) -> str:
    """What a value of the type looks like inside its range."""
    return _listed([word for option in _options(kind) for word in _ranged(option, within)])


def _ranged(kind: Any, within: Range) -> list[str]:
    if get_origin(kind) is tuple and within.span:
        return [f"two whole numbers lo;hi with {within.low:g} <= lo <= hi"]
    if get_origin(kind) is tuple:
        return [f"one or more numbers {within.words}".rstrip()] if within.filled else _written(kind)
    if kind is int:
        return [f"a whole number {within.words}".rstrip()]
    if kind is float:  # one bound leaves infinity open
        return [f"a {'finite ' if math.isinf(within.high) else ''}number {within.words}".rstrip()]
    return _written(kind)


# -- JSON schema -------------------------------------------------------------------------------------------------------
def properties(cls: type[Method]) -> dict[str, Any]:
    """JSON schema of every hyper-parameter of a method: type, choices, range, default and help."""
    return {field.name: _property(field, kinds(cls)[field.name]) for field in fields(cls)}


def _property(field: Field[Any], kind: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"description": field.metadata.get("help", "")} | _schema(kind, range_of(field))
    if field.default is not MISSING:
        described["default"] = list(field.default) if isinstance(field.default, tuple) else field.default
    return described


def _schema(kind: Any, within: Range) -> dict[str, Any]:
    if get_origin(kind) in (Union, types.UnionType):
        return {"anyOf": [_schema(option, within) for option in get_args(kind)]}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is tuple:
        filled = {"minItems": 2, "maxItems": 2} if within.span else {"minItems": 1} if within.filled else {}
        return {"type": "array", "items": _schema(get_args(kind)[0], _each(within))} | filled
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return {"type": names[kind]} | (within.bounds if kind in (int, float) else {})
