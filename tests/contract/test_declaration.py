"""What every method of the registry must say of itself; nothing here knows any of them."""

import json
from dataclasses import fields

import pytest

from grounddecode import registry
from tests.oracle.cases import EVERY_CASE

NAMES = registry.names()
METHODS = [registry.create(name) for name in NAMES] + [method for case in EVERY_CASE for method in case.methods]


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_documented(name: str) -> None:
    for field in fields(registry.method_class(name)):
        assert len(field.metadata["help"]) > 10, field.name
        assert field.metadata["source"] in ("paper", "released", "ours"), field.name


@pytest.mark.parametrize("name", NAMES)
def test_the_class_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    cls = registry.method_class(name)
    assert cls.name == name
    assert cls.summary
    assert cls.paper
    assert "ource:" in (cls.__doc__ or "") or "arXiv" in (cls.__doc__ or "")


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_json_round_trip(method) -> None:
    again = registry.from_dict(json.loads(json.dumps(method.to_dict())))
    assert again == method
    assert hash(again) == hash(method)
    assert json.loads(json.dumps(again.to_dict())) == json.loads(json.dumps(method.to_dict()))


@pytest.mark.parametrize("name", NAMES)
def test_strings_of_the_command_line_give_the_same_method(name: str) -> None:
    method = registry.create(name)
    written = {
        key: ";".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in method.to_dict().items()
        if key != "name"
    }
    assert registry.create(name, **written) == method


@pytest.mark.parametrize("name", NAMES)
def test_each_method_has_a_switch_and_its_default_is_on(name: str) -> None:
    cls = registry.method_class(name)
    neutral = {f.name: f.metadata["neutral"] for f in fields(cls) if "neutral" in f.metadata}
    assert neutral
    assert not registry.create(name).is_neutral()
    assert registry.create(name, **neutral).is_neutral()
    for field, value in neutral.items():
        assert registry.create(name, **{field: value}).is_neutral() != (cls.all_switches and len(neutral) > 1)


def test_every_method_has_a_case_with_a_dense_oracle() -> None:
    assert {method.name for case in EVERY_CASE for method in case.methods} == set(registry.METHODS)
