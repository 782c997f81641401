"""Names, specifications and values of methods."""

import pytest

from grounddecode import AvisC, LocoRE, registry


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


@pytest.mark.parametrize("name", registry.names())
def test_every_method_says_what_it_is(name):
    cls = registry.method_class(name)
    assert cls.name == name
    assert cls.paper
    assert cls.summary
    assert cls.__doc__
