"""The one table of methods, and how a name or a specification becomes a `Method`."""

from __future__ import annotations

import difflib
import types
import typing
from dataclasses import Field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args, get_origin

if TYPE_CHECKING:
    from grounddecode.method import Method

METHODS: dict[str, str] = {
    "locore": "grounddecode.methods.locore:LocoRE",
    "avc": "grounddecode.methods.avc:AvisC",
    "sgrs": "grounddecode.methods.sgrs:SGRS",
    "var": "grounddecode.methods.var:VAR",
    "paint": "grounddecode.methods.paint:PAINT",
    "heads": "grounddecode.methods.heads:HeadModulation",
}


def names() -> list[str]:
    """Names of all methods, in the order of the table."""
    return list(METHODS)


def nearest(given: str, known: typing.Iterable[str], what: str) -> str:
    """One sentence for an unknown name: what was given, the nearest known one, all known ones."""
    known = list(known)
    close = difflib.get_close_matches(given.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"
    return f"{given!r} is no {what}, {hint}"


def method_class(name: str) -> type[Method]:
    """The class of a method. Raises ValueError with the nearest name when there is none."""
    if name not in METHODS:
        raise ValueError(nearest(name, METHODS, "method"))
    module, _, attribute = METHODS[name].partition(":")
    return cast("type[Method]", getattr(import_module(module), attribute))


def create(name: str, **params: Any) -> Method:
    """A method from its name and hyper-parameters; strings are read as the type of the field.

    Raises:
        ValueError: unknown method or hyper-parameter (with the nearest one), or a value the method refuses.
    """
    cls = method_class(name)
    known = {f.name: f for f in fields(cls)}
    for key in params:
        if key not in known:
            raise ValueError(nearest(key, known, f"hyper-parameter of {name}"))
    return cls(**{key: _coerce(name, known[key], _types(cls)[key], value) for key, value in params.items()})


def from_dict(data: typing.Mapping[str, Any]) -> Method:
    """The inverse of `Method.to_dict`."""
    rest = dict(data)
    return create(str(rest.pop("name", "")), **rest)


def parse(spec: str) -> tuple[Method, ...]:
    """Methods of a specification; `""` and `"greedy"` are none.

    `"avc"`, `"locore+avc"`, `"avc:alpha=2.5,beta=0.1+locore:layers=9;10"`, `"heads:gains=1;1.5/2;1"` (rows by /).
    """
    if spec in ("", "greedy"):
        return ()
    return tuple(_parse_one(part) for part in spec.split("+"))


def _parse_one(part: str) -> Method:
    name, params = split(part)
    return create(name, **params)


def split(part: str) -> tuple[str, dict[str, str]]:
    """Name and hyper-parameters of one method in a specification: `"avc:alpha=1"` gives `("avc", {"alpha": "1"})`."""
    name, _, rest = part.strip().partition(":")
    params: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{item!r} in {part!r} is no setting, write key=value")
        params[key.strip()] = value.strip()
    return name, params


def _types(cls: type[Method]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _coerce(method: str, field: Field[Any], kind: Any, value: Any) -> Any:
    """`value` as the declared type of the field."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None or (value in ("none", "None") and type(None) in options):
        return None
    for option in options:
        try:
            return _as(option, value)
        except (TypeError, ValueError):
            continue
    raise ValueError(f"{method}: {field.name} is {value!r}, give {_wanted(options)}")


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "none"}


def _wanted(kinds: typing.Iterable[Any]) -> str:
    """What a value of one of these types looks like when it is written down."""
    words = [word for kind in kinds for word in _written(kind)]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _written(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    if get_origin(kind) is not tuple:
        return [_WORDS.get(kind, getattr(kind, "__name__", str(kind)))]
    item = get_args(kind)[0]
    if get_origin(item) is tuple:
        return ["rows of numbers such as 1;2/3;4"]
    return ["whole numbers such as 9;10" if item is int else "numbers such as 0.5;1"]


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
    if kind is type(None):
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
