"""What a request says and what a server was started for: methods, or one sentence."""

from __future__ import annotations

import json

import pytest

from grounddecode import registry
from grounddecode.engines.vllm.frontend.schema import json_schema
from grounddecode.engines.vllm.params import Settings, not_offered, read_request, restored, written
from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.attention.var import VAR
from grounddecode.methods.contrast.avc import AvisC


@pytest.mark.parametrize(
    ("given", "methods"),
    [
        (None, None),
        ('{"method": "locore", "beta": 1}', (LocoRE(beta=1),)),
        ({"method": "locore", "layers": [1, 2]}, (LocoRE(layers=(1, 2)),)),
        ([{"method": "locore"}, {"method": "avc", "alpha": 1}], (LocoRE(), AvisC(alpha=1))),
        ("locore+avc:alpha=1", (LocoRE(), AvisC(alpha=1))),
        ('["locore", {"method": "none"}]', (LocoRE(),)),
        ({"method": "none"}, ()),
        ("greedy", ()),
        ({"method": "locore", "beta": 0}, ()),
        ([], ()),
    ],
)
def test_what_is_understood(given, methods):
    assert read_request(given) == methods


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"beta": 1}, "names no method"),
        (7, "holds 7, give an object"),
        ({"method": "none", "beta": 1}, "'none' takes no hyper-parameters, leave beta out"),
        ({"method": "locore", "beta": 10**40}, "beta is a number of many digits"),
        ({"method": "sgrs", "window": 10**7}, "sgrs: window is 10000000, give a whole number between 1 and 4096"),
        ({"method": "sgrs", "top_k": 10**6}, "sgrs: top_k is 1000000, give a whole number between 1 and 256"),
        ({"method": "locore", "layers": [10**40]}, "layers is a number of many digits"),
        (
            {"method": "heads", "alpha": 1e300},
            r"heads: alpha is 1e\+300, give what float32 holds, below 3.4e38",
        ),
        ('{"method": "heads", "gains": [[1, -1e39]]}', "heads: gains is .* give what float32 holds"),
        ({"method": "locore", "beta": float("nan")}, "locore: beta is nan"),
        ("[" * 4000, "is no JSON"),
        ("avc:alpha=1,alpha=2", "^alpha is given twice in 'avc:alpha=1,alpha=2', give it once$"),
        ('[{"method": "avc", "alpha": 1, "alpha": 2}]', r"\(alpha is given twice in it, give it once\)"),
        ({"method": "avc", "name": "locore"}, "names a method twice, by `method` and by `name`, leave one out"),
        ("y" * 10_000, "text of 10000 characters"),
        ("avc+paint:gamma=2", "avc and paint both need a second stream"),
    ],
)
def test_what_is_not_is_told(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_request(given)


def test_a_request_inherits_what_the_server_was_started_for():
    served = (VAR(sink_dims=(3, 11), tau=1.5),)
    assert read_request({"method": "var", "p": 0.2}, served) == (VAR(sink_dims=(3, 11), tau=1.5, p=0.2),)
    whole = VAR(p=0.2).to_dict()  # what engine openai sends
    assert read_request(whole, served) == (VAR(sink_dims=(3, 11), tau=1.5, p=0.2),)
    assert read_request({"method": "var", "tau": "auto"}, served) == (VAR(sink_dims=(3, 11)),), (
        "asked for, so not inherited"
    )
    settings = Settings.read({"for": ["var:sink_dims=3;11,tau=1.5"], "default": {"method": "var"}})
    assert settings.serves == settings.default == served


def test_the_text_that_workers_read_gives_the_same_methods():
    methods = (LocoRE(beta=2, layers=(1, 2)), AvisC(scheme="mask"))
    assert restored(written(methods)) == methods
    assert written(methods) != written(methods[::-1])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"four": "var"}, "'four' is no setting of --additional-config's grounddecode, did you mean 'for'"),
        ({"on_error": "die"}, "on_error is 'die', give plain or stop"),
        ({"for": "vra"}, "'vra' is no method"),
        ({"streams": 0}, "streams is 0, give a whole number of at least 1"),
        ({"streams": "many"}, "streams is 'many', give a whole number of at least 1"),
    ],
)
def test_settings_are_checked(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        Settings.read(given)


def test_what_a_server_does_not_offer_is_told():
    nothing = Settings.read(None)
    assert not_offered(read_request("locore+avc") or (), nothing, 6) is None
    assert "was not started for it" in str(not_offered(read_request("var") or (), nothing, 6))
    assert "no attention weights" in str(not_offered(read_request("paint") or (), nothing, 6))
    assert str(not_offered(read_request("paint:gamma=1.1") or (), nothing, 6)).endswith(
        "; without its edit, layers=0;0, it works here"
    )
    assert not_offered(read_request("paint:gamma=1.1,layers=0;0") or (), nothing, 6) is None
    assert "layers 0 to 5" in str(not_offered(read_request("locore:layers=9") or (), nothing, 6))
    served = Settings.read({"for": "var:tau=2"})
    assert not_offered(read_request("var:p=0.1", served.serves) or (), served, 6) is None
    assert "looks for sinks" in str(not_offered(read_request("var:tau=3", served.serves) or (), served, 6))


def test_layers_that_a_server_takes_no_gradients_in_are_told():
    served = Settings.read({"for": "sgrs:layers=2;3"})
    for layers in ("2", "2;3", "3;5"):
        assert not_offered(read_request(f"sgrs:layers={layers}", served.serves) or (), served, 6) is None
    for layers in ("1", "0;3"):
        assert not_offered(read_request(f"sgrs:layers={layers}", served.serves) or (), served, 6) == (
            f"sgrs: this server takes gradients in layers from 2 on, not in layer {layers[0]}, leave it out or start "
            "the server for it"
        )
    for settings in (served, Settings.read(None)):
        reason = not_offered(read_request("sgrs:layers=99", served.serves) or (), settings, 6)
        assert reason == "sgrs: layers is (99,), this model has layers 0 to 5"


def test_the_schema_is_the_registrys():
    schema = json.loads(json.dumps(json_schema()))
    one = schema["oneOf"][0]["oneOf"]
    named = {entry["properties"]["method"]["const"]: entry for entry in one}
    assert list(named) == ["none", *registry.names()]
    beta = named["locore"]["properties"]["beta"]
    assert beta["type"] == "number"
    assert beta["default"] == LocoRE().beta
    assert named["avc"]["properties"]["scheme"]["enum"] == ["zeros", "ones", "noise", "mask"]
    assert schema["oneOf"][1]["items"] == schema["oneOf"][0]
