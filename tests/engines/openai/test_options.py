"""Addresses, models and options of engine openai."""

from __future__ import annotations

import json
from typing import Any

import pytest

from grounddecode.engines.base import open_engine
from grounddecode.engines.openai.engine import OpenAIEngine
from tests.engines.openai.fake import GREEDY, Fake, ask


def test_the_only_model_is_found(fake: Fake) -> None:
    fake.models = ["org/the-one"]
    engine = open_engine("openai", fake.url)
    try:
        engine.generate(ask("a"), GREEDY)
        assert engine.describe() == {
            "engine": "openai", "model": "org/the-one", "class": "OpenAI-compatible server", "url": fake.url + "/",
            "version": "unknown", "concurrency": 8, "send_methods": False, "extra": {},
        }  # fmt: skip
    finally:
        engine.close()
    assert fake.bodies[0]["model"] == "org/the-one"


@pytest.mark.parametrize(
    ("models", "says"), [(["a", "b"], r"2 models \(a, b\), say which"), ([], r"0 models \(none\)")]
)
def test_several_models_need_a_name(fake: Fake, models: list[str], says: str) -> None:
    fake.models = models
    with pytest.raises(RuntimeError, match=says):
        OpenAIEngine(fake.url)
    engine = OpenAIEngine(fake.url + "#b/c")
    engine.close()
    assert engine.model_name == "b/c"


def test_nobody_listens() -> None:
    unused = Fake()
    unused.close()
    with pytest.raises(RuntimeError, match="lists no models: ConnectError"):
        OpenAIEngine(unused.url)


@pytest.mark.parametrize(
    ("address", "url", "name"),
    [
        ("http://h:1/v1#org/name", "http://h:1/v1/", "org/name"),
        ("https://h", "https://h/v1/", ""),
        ("http://h:1/", "http://h:1/v1/", ""),
        ("http://h/a/v2/", "http://h/a/v2/", ""),
        (" http://h/v1\r\n", "http://h/v1/", ""),
        ("http://h/v1/chat/completions", "http://h/v1/", ""),
        ("http://h/chat/completions/#m", "http://h/v1/", "m"),
        ("http://u:p@h/v1#org/name@2", "http://h/v1/", "org/name@2"),
        ("https://h/openai/deployments/d?api-version=1#m", "https://h/openai/deployments/d/?api-version=1", "m"),
    ],
)
def test_addresses(address: str, url: str, name: str) -> None:
    from grounddecode.engines.openai.address import address as read

    found = read(address)
    assert (str(found.url), found.model) == (url, name)


def test_the_query_of_an_address_goes_with_every_request(fake: Fake) -> None:
    engine = OpenAIEngine(fake.url + "?api-version=2&key=very-secret")
    try:
        engine.generate(ask("a"), GREEDY)
        assert engine.describe()["url"] == fake.url + "/?api-version=2&key=***"
    finally:
        engine.close()
    assert fake.paths[0] == "/v1/models?api-version=2&key=very-secret"
    assert fake.paths[-1] == "/v1/chat/completions?api-version=2&key=very-secret"


@pytest.mark.parametrize("wrong", ["lab", "org/model", "ftp://h/v1", "http://", "http://h:x/v1", "http://h:99999/v1"])
def test_a_model_that_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no address of a server"):
        OpenAIEngine(wrong)


@pytest.mark.parametrize(
    ("key", "values"),
    {
        "concurrency": [0, 1e9],
        "retries": [-1, "inf", "nan", 1.5, None, "1e9"],
        "backoff": ["soon", -1],
        "timeout": [0, "inf"],
        "deadline": [-1, "nan"],
        "max_bytes": [3],
        "send_methods": ["maybe"],
        "extra": ["{", "[]", 3, '{"top_k": 1, "top_k": 2}'],
    }.items(),
)
def test_options_out_of_range_are_refused(fake: Fake, key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"^{key} is "):
            OpenAIEngine(fake.url + "#m", **{key: value})


@pytest.mark.parametrize("field", ["messages", "stream", "n"])
def test_extra_cannot_make_answers_unreadable(fake: Fake, field: str) -> None:
    with pytest.raises(ValueError, match=f"^extra sets {field}, which engine openai sets itself"):
        OpenAIEngine(fake.url + "#m", extra={field: 2})


def test_an_unknown_option_is_named(fake: Fake) -> None:
    with pytest.raises(ValueError, match="'retrys' is no option of engine openai, did you mean 'retries'"):
        open_engine("openai", fake.url, retrys=1)


def test_the_key_is_sent_and_never_told(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    for options, key in (({}, "from-environment"), ({"api_key": "given"}, "given")):
        engine = OpenAIEngine(fake.url + "#m", **options)
        try:
            engine.generate(ask("a"), GREEDY)
            assert key not in json.dumps(engine.describe())
        finally:
            engine.close()
        assert fake.headers[-1]["Authorization"] == f"Bearer {key}"
    monkeypatch.delenv("OPENAI_API_KEY")
    engine = OpenAIEngine(fake.url + "#m")
    try:
        engine.generate(ask("a"), GREEDY)
    finally:
        engine.close()
    assert "Authorization" not in fake.headers[-1]
