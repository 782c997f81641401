"""The one table of methods, and the one grammar in which people write them down."""

from __future__ import annotations

import difflib
import logging
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from math import inf
from typing import TYPE_CHECKING, Any

from grounddecode import schema

if TYPE_CHECKING:
    from grounddecode.method import Method

METHODS: dict[str, str] = {
    "locore": "grounddecode.methods.attention.locore:LocoRE",
    "avc": "grounddecode.methods.contrast.avc:AvisC",
    "sgrs": "grounddecode.methods.choice.sgrs:SGRS",
    "var": "grounddecode.methods.attention.var:VAR",
    "paint": "grounddecode.methods.attention.paint:PAINT",
    "heads": "grounddecode.methods.attention.heads:HeadModulation",
    "flb": "grounddecode.methods.choice.flb:FLB",
    "spin": "grounddecode.methods.attention.spin:SPIN",
    "vaf": "grounddecode.methods.attention.vaf:VAF",
    "deco": "grounddecode.methods.layers.deco:DeCo",
    "dola": "grounddecode.methods.layers.dola:DoLa",
    "vista": "grounddecode.methods.layers.vista:VISTA",
    "vti": "grounddecode.methods.layers.vti:VTI",
    "sid": "grounddecode.methods.contrast.sid:SID",
    "vcd": "grounddecode.methods.contrast.vcd:VCD",
    "m3id": "grounddecode.methods.contrast.m3id:M3ID",
    "pai": "grounddecode.methods.attention.pai:PAI",
    "icd": "grounddecode.methods.contrast.icd:ICD",
    "cicd": "grounddecode.methods.contrast.cicd:CICD",
    "nolan": "grounddecode.methods.contrast.nolan:NoLan",
    "memvr": "grounddecode.methods.layers.memvr:MemVR",
}
GROUP = "grounddecode.methods"  # of entry points by which other packages add methods: NAME = "package.module:Class"
GREEDY = "greedy"
# How tokens are chosen: the settings of a word, under their `Decoding` names, with what holds when none are given.
WORDS: dict[str, dict[str, tuple[str, float]]] = {
    "sample": {"temperature": ("temperature", 1.0), "top_p": ("top_p", 1.0)},
    "cut": {"beta": ("min_p", 0.1)},
    "beam": {"n": ("num_beams", 5)},
}
MOST_BEAMS = 1000  # each is a row of the batch
#: What those fields may be, and in words.
POSSIBLE: dict[str, tuple[typing.Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 < value < inf, "a finite number above 0"),
    "top_p": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "min_p": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "num_beams": (
        lambda value: 1 <= value <= MOST_BEAMS and float(value).is_integer(),
        f"a whole number from 1 to {MOST_BEAMS}",
    ),
}
_PLUS = re.compile(r"\+(?![\d.])")  # a plus before a digit belongs to a number: 1e+2
_log = logging.getLogger("grounddecode")


# -- the table ---------------------------------------------------------------------------------------------------------
@cache
def targets() -> Mapping[str, str]:
    """`module:Class` of every method by name: those of this package, then those that other packages add."""
    found = dict(METHODS)
    for point in sorted(entry_points(group=GROUP)):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", point.name) or point.name in {*found, GREEDY, *WORDS, "none"}:
            _log.warning("the method %r of %s is left out: its name is taken or no word", point.name, point.value)
            continue
        found[point.name] = point.value
    return found


def names() -> list[str]:
    """Names of all methods, in the order of the table."""
    return list(targets())


def nearest(given: str, known: Iterable[str], what: str) -> str:
    """One sentence for an unknown name: what was given, the nearest known one, all known ones."""
    known = list(known)
    close = difflib.get_close_matches(given.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"
    return f"{given!r} is no {what}, {hint}"


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ValueError: no method of this name (with the nearest one), or one of another package that is none.
    """
    if name not in targets():
        raise ValueError(nearest(name, targets(), "method"))
    module, _, attribute = targets()[name].partition(":")
    try:
        cls = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the method {name!r} cannot be had ({error}), install its package anew") from error
    return _checked(name, cls)


def _checked(name: str, cls: Any) -> type[Method]:
    """The class, if it is a method that goes by its name."""
    from grounddecode.method import Method

    if not (isinstance(cls, type) and issubclass(cls, Method)) or cls.name != name:
        raise ValueError(f"{targets()[name]} is no method named {name!r}, give a Method whose `name` it is")
    return cls


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


def from_dict(data: Mapping[str, Any]) -> Method:
    """The inverse of `Method.to_dict`."""
    rest = dict(data)
    return create(str(rest.pop("name", "")), **rest)


def changed(method: Method, settings: Mapping[str, Any]) -> Method:
    """A copy with some hyper-parameters set anew; strings are read."""
    return from_dict(method.to_dict() | dict(settings))


# -- the grammar -------------------------------------------------------------------------------------------------------
#   list    = plan {"," plan}
#   plan    = part {"+" part}
#   part    = word [":" setting {"," setting}]      word: greedy, sample, cut, beam, or a method
#   setting = key "=" value                         value: 0.5, true, none, 1;2;3 or, where there are rows, 1;2/3;4
@dataclass(frozen=True)
class Plan:
    """One way of answering: its specification as given, fields of `Decoding`, and methods."""

    name: str
    decoding: Mapping[str, Any]
    methods: tuple[Method, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, every hyper-parameter resolved."""
        return {"decoding": dict(self.decoding), "methods": [method.to_dict() for method in self.methods]}


def listed(names: str | Sequence[str]) -> list[str]:
    """Specifications in a list, or divided by commas; one before a setting (`avc:alpha=1,beta=0.1`) does not."""
    if not isinstance(names, str):
        return list(names)
    specs: list[str] = []
    for piece in filter(None, (piece.strip() for piece in names.split(","))):
        if specs and ":" in specs[-1] and "=" in piece and ":" not in piece:
            specs[-1] += f",{piece}"
        else:
            specs.append(piece)
    return specs


def parts(spec: str) -> list[tuple[str, dict[str, str]]]:
    """Word and settings of every part: `"sample+avc:alpha=1"` is `[("sample", {}), ("avc", {"alpha": "1"})]`.

    Raises:
        ValueError: a setting that is no `key=value`, or one that a part is given twice.
    """
    return [_part(text.strip()) for text in _PLUS.split(spec)]


def _part(text: str) -> tuple[str, dict[str, str]]:
    word, _, rest = text.partition(":")
    pairs = [setting(item, f"{item!r} in {text!r}") for item in filter(None, rest.split(","))]
    return word.strip(), schema.once(pairs, f"in {text!r}")


def setting(text: str, said: str) -> tuple[str, str]:
    """Key and value of `key=value`. Raises ValueError for anything else, with what was `said`."""
    key, equals, value = (piece.strip() for piece in text.partition("="))
    if not equals:
        raise ValueError(f"{said} is no setting, write key=value")
    return key, value


def parse(spec: str) -> tuple[Method, ...]:
    """Methods of a specification; `""` and `"greedy"` are none.

    `"avc"`, `"locore+avc"`, `"avc:alpha=2.5,beta=0.1+locore:layers=9;10"`, `"heads:gains=1;1.5/2;1"` (rows by /).
    """
    if spec in ("", GREEDY):
        return ()
    return tuple(create(name, **params) for name, params in parts(spec))


def plan(spec: str) -> Plan:
    """The plan of a specification: parts joined by `+`, each with optional `:key=value,...` settings.

    `greedy` (the default), `sample` (`temperature`, `top_p`, both 1), `sample+cut` (sampling among the tokens with at
    least `beta` = 0.1 of the best one's probability: the plausibility cut of contrastive decoders alone),
    `beam` (`n` = 5), and any method of the registry: `avc`, `locore:beta=0.3`, `locore+avc`, `sample+avc`.

    Raises:
        ValueError: an unknown word, method or setting, a word or setting given twice, or a cut without sampling.
    """
    decoding: dict[str, Any] = {}
    methods: list[Method] = []
    given = parts(spec)
    schema.once((part for part in given if part[0] in WORDS), f"in {spec!r}")
    for word, settings in given:
        if word in WORDS:
            decoding |= _decoding(word, settings)
        elif word in targets():
            methods.append(create(word, **settings))
        elif word != GREEDY:
            raise ValueError(nearest(word, [GREEDY, *WORDS, *targets()], "method"))
        elif settings:
            raise ValueError(f"{GREEDY} has no settings, leave {', '.join(settings)} out")
    if "min_p" in decoding and not decoding.get("do_sample"):
        raise ValueError(f"{spec!r} cuts what greedy decoding never takes: write sample+cut")
    if decoding.get("do_sample") and "num_beams" in decoding:
        raise ValueError(f"{spec!r} both samples and searches with beams: choose one")
    return Plan(spec, decoding, tuple(methods))


def plans(specs: Sequence[str]) -> list[Plan]:
    """Plans of several specifications, each once.

    Raises:
        ValueError: none given, or one that is wrong.
    """
    several = [plan(spec) for spec in dict.fromkeys(name.strip() for name in specs) if spec]
    if not several:
        raise ValueError("no method was given: name at least one, such as greedy")
    return several


def _decoding(word: str, settings: Mapping[str, str]) -> dict[str, Any]:
    known = WORDS[word]
    values = dict(known.values())
    for key, value in settings.items():
        if key not in known:
            raise ValueError(nearest(key, known, f"setting of {word}"))
        values[known[key][0]] = _number(f"{word}:{key}", known[key][0], value)
    if word == "beam":
        values["num_beams"] = int(values["num_beams"])
    return values | ({"do_sample": True} if word == "sample" else {})


def _number(name: str, field: str, text: str) -> float:
    """The value of a field of `Decoding`. Raises ValueError for what it cannot be."""
    possible, wanted = POSSIBLE[field]
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, give {wanted}") from None
    if not possible(value):
        raise ValueError(f"{name} is {text}, give {wanted}")
    return value
