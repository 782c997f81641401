"""The one table of methods, and how a name or a specification becomes a `Method`."""

from __future__ import annotations

import difflib
import typing
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from grounddecode import schema

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
    return cls(**{key: schema.read(name, known[key], schema.kinds(cls)[key], value) for key, value in params.items()})


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
