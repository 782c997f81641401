"""Secrets are taken out of texts and settings; nothing else is."""

from __future__ import annotations

import pytest

from grounddecode import secrets


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://bob:pa55@h:1/v1#m", "http://***@h:1/v1#m"),
        ("http://bob:p@ss:w@h/v1 and https://t0ken@h", "http://***@h/v1 and https://***@h"),
        ("bench --engine-option api_key=sk-1 --limit 3", "bench --engine-option api_key=*** --limit 3"),
        ("api_key = abc, timeout=3", "api_key = ***, timeout=3"),
        ("https://h/v1?api-version=1&api-key=abc&key=def#m", "https://h/v1?api-version=1&api-key=***&key=***#m"),
        ("https://h/v1?sig=a%2Fb", "https://h/v1?sig=***"),
        ('{"OPENAI_API_KEY": "abc", "top_k": 3}', '{"OPENAI_API_KEY": "***", "top_k": 3}'),
        ("authorization: Bearer abcdefgh.ij-k", "authorization: Bearer ***"),
        ("wrong key sk-proj-12345678901234567890", "wrong key ***"),
        ("wrong key sk-abcd***************wxyz.", "wrong key ***."),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert secrets.hidden(text) == shown
    assert secrets.hidden(shown) == shown
    assert secrets.masked({"a": [text]}) == {"a": [shown]}


@pytest.mark.parametrize(
    "text",
    [
        "http://h:1/v1#org/name@2",
        "see https://h/a?b=c, write to a@b",
        "avc:alpha=1,beta=0.1 --max-new-tokens 5 max_tokens=3 n_tokens=4",
        "'lmab' is no setting, write key=value",
        "the end token: 7, a bearer of news, task-oriented-assistants-everywhere",
        "password: who knows",
    ],
)
def test_nothing_else_is(text: str) -> None:
    assert secrets.hidden(text) == text
    assert secrets.masked([text, 1, None, True]) == [text, 1, None, True]


def test_a_remembered_secret_is_hidden_wherever_it_stands() -> None:
    secrets.remember("p4$$/word")
    assert secrets.hidden("wrong: p4$$/word!") == "wrong: ***!"
    assert secrets.hidden("x=p4%24%24%2Fword") == "x=***"
    assert secrets.hidden("gluedp4$$/wordtogether") == "glued***together"
    secrets.remember_login("bob", "pw1")
    assert secrets.hidden("Basic Ym9iOnB3MQ== of bob with pw1, not pw12") == "Basic *** of bob with ***, not pw12"


def test_words_and_placeholders_leave_settings_and_answers_alone() -> None:
    for key in ("EMPTY", "openai", "none", "", "x"):
        secrets.remember(key)
    assert secrets.hidden("engine openai none EMPTY x") == "engine openai none EMPTY x"
    secrets.remember("greedy")
    assert secrets.hidden("a greedy 401") == "a *** 401"
    assert secrets.masked({"methods": ["greedy"]}) == {"methods": ["greedy"]}
    assert not secrets.repeats_secret("a greedy dog")
    secrets.remember("sk-X")
    assert secrets.masked({"methods": ["sk-X"]}) == {"methods": ["***"]}
    assert secrets.repeats_secret("You said sk-X")


def test_what_stands_under_the_name_of_a_secret_is_masked() -> None:
    settings = {"engine_options": {"api_key": "abc", "timeout": 3, "extra": {"token": "abc"}}, "plans": ("a", "b")}
    assert secrets.masked(settings) == {
        "engine_options": {"api_key": "***", "timeout": 3, "extra": {"token": "***"}},
        "plans": ["a", "b"],
    }
    assert settings["plans"] == ("a", "b"), "the given value stays as it is"
