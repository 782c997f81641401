"""Ranges and choices of hyper-parameters: declared once, and what follows from that."""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from grounddecode import schema
from grounddecode.method import Method, option


@dataclass(frozen=True, kw_only=True)
class Toy(Method):
    """A method of every kind of field."""

    name: ClassVar[str] = "toy"

    share: float = option(0.5, "a share of it; more about it", low=0, high=1)
    part: float = option(0.5, "a part of it", low=0, high=1, open_low=True)
    below: float = option(0.5, "never all of it", low=0, high=1, open_high=True)
    size: float = option(1.0, "a size", low=0)
    free: float = option(0.0, "any number")
    count: int = option(3, "how many of them", low=1)
    mode: Literal["one", "other"] = option("one", "one mode or the other")
    switch: bool = option(False, "whether it is switched on")
    limit: float | Literal["auto"] = option("auto", "a limit", low=0, open_low=True)
    dims: tuple[int, ...] | None = option(None, "dimensions, if any", low=0, filled=True)
    rows: tuple[tuple[float, ...], ...] = option(((),), "rows of numbers", low=0)
    layers: tuple[int, ...] = option((2, 9), "a span", low=0, span=True)


WRONG = [
    ("share", 1.5, "toy: share is 1.5, give a number between 0 and 1"),
    ("part", 0.0, "toy: part is 0.0, give a number above 0 and at most 1"),
    ("below", 1.0, "toy: below is 1.0, give a number of at least 0 and below 1"),
    ("size", math.inf, "toy: size is inf, give a finite number of at least 0"),
    ("free", math.nan, "toy: free is nan, give a finite number"),
    ("free", "x", "toy: free is 'x', give a finite number"),
    ("count", 0, "toy: count is 0, give a whole number of at least 1"),
    ("count", 2.0, "toy: count is 2.0, give a whole number of at least 1"),
    ("mode", "third", "toy: mode is 'third', give one or other"),
    ("switch", "no", "toy: switch is 'no', give true or false"),
    ("limit", 0.0, "toy: limit is 0.0, give a finite number above 0 or auto"),
    ("limit", "much", "toy: limit is 'much', give a finite number above 0 or auto"),
    ("dims", (), "toy: dims is (), give one or more numbers of at least 0 or none"),
    ("dims", (3, -1), "toy: dims is (3, -1), give one or more numbers of at least 0 or none"),
    ("rows", ((1.0, -1.0),), "toy: rows is ((1.0, -1.0),), give rows of numbers such as 1;2/3;4"),
    ("layers", (3, 2), "toy: layers is (3, 2), give two whole numbers lo;hi with 0 <= lo <= hi"),
    ("layers", (3,), "toy: layers is (3,), give two whole numbers lo;hi with 0 <= lo <= hi"),
]


@pytest.mark.parametrize(("field", "value", "said"), WRONG)
def test_what_lies_outside_is_refused_in_one_sentence(field: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        Toy(**{field: value})
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "given",
    [{"share": 0}, {"share": 1.0}, {"part": 1}, {"below": 0.0}, {"limit": 2}, {"dims": (0,)}, {"rows": ((), (1.0,))}],
)
def test_bounds_belong_to_the_range_unless_open(given: dict[str, object]) -> None:
    Toy(**given)


def test_the_range_stands_in_the_help_before_what_follows() -> None:
    told = {field.name: field.metadata["help"] for field in fields(Toy)}
    assert told["share"] == "a share of it, in [0, 1]; more about it"
    assert told["part"] == "a part of it, in (0, 1]"
    assert told["below"] == "never all of it, in [0, 1)"
    assert told["count"] == "how many of them, >= 1"
    assert told["limit"] == "a limit, > 0"
    assert told["free"] == "any number"


def test_json_schema_says_the_same() -> None:
    told = json.loads(json.dumps(schema.properties(Toy)))
    assert told["share"] == {
        "description": "a share of it, in [0, 1]; more about it",
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "default": 0.5,
    }
    assert told["part"]["exclusiveMinimum"] == 0
    assert "minimum" not in told["part"]
    assert told["below"]["exclusiveMaximum"] == 1
    assert told["count"] == {"description": "how many of them, >= 1", "type": "integer", "minimum": 1, "default": 3}
    assert told["mode"]["enum"] == ["one", "other"]
    assert told["limit"]["anyOf"] == [{"type": "number", "exclusiveMinimum": 0}, {"enum": ["auto"]}]
    assert told["dims"]["anyOf"][0] == {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    assert (told["layers"]["minItems"], told["layers"]["maxItems"]) == (2, 2)
    assert told["rows"]["items"] == {"type": "array", "items": {"type": "number", "minimum": 0}}


def test_methods_check_by_hand_only_what_ties_several_values() -> None:
    """A range or a choice written into a method again would be a second copy of its declaration."""
    root = Path(schema.__file__).parent / "methods"
    own = [path.stem for path in sorted(root.rglob("*.py")) if "def __post_init__" in path.read_text(encoding="utf-8")]
    assert own == ["heads", "icd"]  # icd: a text or ids, neither empty
