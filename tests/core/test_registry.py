"""Names, specifications and values of methods."""

import re
from dataclasses import fields

import pytest

from grounddecode import PAINT, AvisC, HeadModulation, LocoRE, registry


def test_specifications():
    assert registry.parse("greedy") == ()
    assert registry.parse("avc") == (AvisC(),)
    assert registry.parse("locore:beta=0.3,layers=1;2+avc:scheme=mask") == (
        LocoRE(beta=0.3, layers=(1, 2)),
        AvisC(scheme="mask"),
    )


def test_strings_become_the_type_of_the_field():
    method = registry.create("locore", window="3", beta="0.5", layers="none")
    assert method == LocoRE(window=3, beta=0.5)
    assert isinstance(method.window, int)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: registry.create("avcc"), "did you mean 'avc'"),
        (lambda: registry.create("avc", alhpa=1), "did you mean 'alpha'"),
        (lambda: registry.create("locore", window="2.5"), "window is '2.5'"),
        (lambda: registry.create("avc", scheme="blur"), "scheme is 'blur'"),
        (lambda: registry.parse("avc:alpha"), "write key=value"),
        (lambda: registry.parse("zzz"), "choose one of"),
    ],
)
def test_mistakes_are_named_with_the_nearest(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("locore:mode=zz", "locore: mode is 'zz', give post_renorm, post or score"),
        ("locore:layers=a;b", "locore: layers is 'a;b', give whole numbers such as 9;10 or none"),
        ("var:tau=x", "var: tau is 'x', give a number or auto"),
        ("sgrs:layers=deep", "sgrs: layers is 'deep', give whole numbers such as 9;10, auto or released"),
        ("sgrs:append_fallback=maybe", "sgrs: append_fallback is 'maybe', give true or false"),
        ("avc:alpha=much", "avc: alpha is 'much', give a number"),
        ("locore:window=2.5", "locore: window is '2.5', give a whole number"),
        ("heads:gains=a;b", "heads: gains is 'a;b', give rows of numbers such as 1;2/3;4 or none"),
    ],
)
def test_a_wrong_value_is_told_what_would_be_right(spec, said):
    with pytest.raises(ValueError, match="give") as caught:
        registry.parse(spec)
    assert str(caught.value) == said


@pytest.mark.parametrize("name", registry.names())
def test_no_type_of_python_stands_in_what_is_wanted(name):
    cls = registry.method_class(name)
    for field in fields(cls):
        with pytest.raises(ValueError, match=field.name) as caught:
            registry.create(name, **{field.name: object()})
        words = str(caught.value).partition("give ")[2]
        assert words
        assert not {"Literal", "NoneType", "tuple", "int", "float", "bool"} & set(re.split(r"[^A-Za-z]+", words))


def test_rows_of_numbers_are_written_with_slashes():
    assert registry.parse("heads:gains=1;1.5/2;0") == (HeadModulation(gains=((1.0, 1.5), (2.0, 0.0))),)
    assert registry.parse("paint:local_tokens=1;2/3") == (PAINT(local_tokens=((1, 2), (3,))),)


@pytest.mark.parametrize("name", registry.names())
def test_every_method_says_what_it_is(name):
    cls = registry.method_class(name)
    assert cls.name == name
    assert cls.paper
    assert cls.summary
    assert cls.__doc__
