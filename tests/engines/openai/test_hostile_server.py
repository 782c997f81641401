"""Engine openai against a server that misbehaves: one sentence, bounded memory, bounded time."""

from __future__ import annotations

import gzip
import json
import logging
import os
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grounddecode.engines.openai.engine import OpenAIEngine
from tests.engines.openai.fake import GREEDY, ask
from tests.engines.openai.hostile import (
    Act,
    answer,
    blanks,
    bomb,
    breaks_off,
    drip,
    echoes,
    head,
    hostile,
    never,
    says,
    says_json,
)

LIMIT = 1 << 20
KEY = "sk-very-secret-1234567890"

EXAMPLES = int(os.environ.get("GROUNDDECODE_FUZZ", "60"))
FIELDS = ["choices", "message", "content", "index", "finish_reason", "usage", "completion_tokens", "error", "text"]


def broken(cut: tuple[int, bytes]) -> bytes:
    """A good reply with something in it overwritten."""
    good = json.dumps(answer()).encode()
    return good[: cut[0]] + cut[1] + good[cut[0] + len(cut[1]) :]


BY_TIME = {"drip", "only informational answers"}  # what ends these is the deadline, which no other may meet
PAGE = b"<!doctype html><head><title>Sorry</title><style>b {}</style></head><body><b>Down</b>\x1b[2J<p></body>"
BAD: dict[str, tuple[Act, str]] = {
    "huge body": (blanks(64), "an answer of more than 1048576 bytes, raise max_bytes"),
    "endless body": (blanks(None), "an answer of more than 1048576 bytes"),
    "gzip bomb": (says(bomb(256), Content_Encoding="gzip"), "an answer of more than 1048576 bytes"),
    "deflate of nothing": (says(b"xyz", Content_Encoding="deflate"), "error .*header check"),
    "another packing": (says(b"xyz", Content_Encoding="br"), "packed as 'br', which nobody asked for"),
    "drip": (drip, r"no whole answer within the deadline of 0\.5 s"),
    "only informational answers": (never, r"no whole answer within the deadline of 0\.5 s"),
    "silence": (lambda link, request: time.sleep(60), "ReadTimeout"),
    "broken off": (breaks_off, "RemoteProtocolError peer closed connection"),
    "hung up": (lambda link, request: None, "RemoteProtocolError Server disconnected"),
    "no HTTP": (lambda link, request: link.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"), "RemoteProtocolError"),
    "a header without end": (lambda link, request: link.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * LIMIT), "Protocol"),
    "a number": (says_json(7), "without a choice: 7"),
    "a list": (says_json([answer()]), "without a choice"),
    "choices of a wrong type": (says_json({"choices": {"0": 1}}), "without a choice"),
    "no choices": (says_json({"choices": []}), "without a choice"),
    "a choice of null": (says_json({"choices": [None]}), "without a choice"),
    "a message of a wrong type": (says_json({"choices": [{"message": "Yes"}]}), "without a choice"),
    "text of a wrong type": (says_json(answer({"a": 1})), "without text"),
    "another index": (
        says_json({"choices": [answer()["choices"][0] | {"index": 1}]}),
        "only choice is number 1, not 0",
    ),
    "two choices": (says_json({"choices": answer()["choices"] * 2}), "2 choices where one was asked for"),
    "a deep list": (says(b"[" * 200_000), "no JSON"),
    "a long number": (says(b"9" * 100_000), "no JSON"),
    "surrogates": (says(rb'{"error": "\ud800\udc00 \ud800 \u001b[31m"}', "400 Bad Request"), "status 400"),
    "a redirect": (
        says(b"", "302 Found", Location="http://bob:pa55word@h/v1?key=s3cret"),
        r"status 302, a redirect to 'http://\*\*\*@h/v1\?key=\*\*\*'",
    ),
    "a redirect without end": (
        lambda link, request: link.sendall(head(0, "307 Temporary Redirect", Location="/v1/chat/completions")),
        "status 307, a redirect to '/v1/chat/completions'",
    ),
    "HTML with status 500": (says(PAGE, "500 Oops"), r"status 500 Sorry Down \[2J$"),
    "HTML with status 200": (says(PAGE), "no JSON: 'Sorry Down"),
    "an echo of the key": (echoes, r"status 401 wrong key in .*Authorization: Bearer \*\*\*"),
    "an answer with the key": (says_json(answer(f"You gave {KEY}")), "an answer that repeats the key"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_misbehaving_server_is_one_sentence(name: str) -> None:
    act, words = BAD[name]
    patience = {"timeout": 0.3 if name == "silence" else 30, "deadline": 0.5 if name in BY_TIME else 30}
    with hostile(act) as server:
        engine = OpenAIEngine(server.url + "#m", api_key=KEY, **patience, retries=1, backoff=0.01, max_bytes=LIMIT)
        tracemalloc.start()
        begin = time.monotonic()
        try:
            with pytest.raises(RuntimeError, match=words) as caught:
                engine.generate(ask("a"), GREEDY)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            engine.close()
    assert time.monotonic() - begin < 25
    told = str(caught.value)
    assert told.startswith("sample id-a: 127.0.0.1 failed: ")
    assert len(told) < 500
    assert told.isprintable()
    assert not any(secret in told for secret in (KEY, "pa55word", "s3cret", "bob"))
    # What the server itself holds is in here too: it sends a megabyte at a time.
    assert peak < 16 * LIMIT


REPLIES = st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode())


def test_any_reply_ends_in_text_or_one_sentence() -> None:
    body = [b""]
    with hostile(lambda link, request: link.sendall(head(len(body[0])) + body[0])) as server:
        engine = OpenAIEngine(server.url + "#m", timeout=30, deadline=30, retries=0, backoff=0.01, max_bytes=LIMIT)

        @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True)
        @given(REPLIES | st.tuples(st.integers(0, 200), st.binary(max_size=3)).map(broken))
        def attempt(reply: bytes) -> None:
            body[0] = reply
            told, text = "", None
            try:
                text = engine.generate(ask("a"), GREEDY)[0].text
            except RuntimeError as error:
                told = str(error)
            assert isinstance(text, str) or told.startswith("sample id-a: 127.0.0.1 failed: ")
            assert told.isprintable()

        attempt()
        engine.close()


@pytest.mark.parametrize("act", [blanks(64), blanks(None), drip, says(bomb(256), Content_Encoding="gzip")])
def test_so_is_one_that_misbehaves_from_the_first_request(act: Act) -> None:
    with hostile(act) as server, pytest.raises(RuntimeError, match="lists no models: ") as caught:
        OpenAIEngine(server.url, timeout=0.3, deadline=0.5, max_bytes=LIMIT)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "usage",
    [{"completion_tokens": n} for n in (-5, "7", 1.5, True, None, 10**30, [3])] + [None, 5, [], {"other": 1}],
)
def test_a_count_that_is_none_is_unknown(usage: Any) -> None:
    with hostile(says_json(answer(usage=usage))) as server:
        engine = OpenAIEngine(server.url + "#m")
        try:
            (response,) = engine.generate(ask("a"), GREEDY)
        finally:
            engine.close()
    assert (response.text, response.n_tokens) == ("fine", 0)


def test_packed_answers_are_read() -> None:
    body = json.dumps(answer("x" * 5000)).encode()
    for packed, name in ((gzip.compress(body), "gzip"), (zlib.compress(body), "deflate"), (body, "identity")):
        with hostile(says(packed, Content_Encoding=name)) as server:
            engine = OpenAIEngine(server.url + "#m", max_bytes=6000)
            try:
                assert engine.generate(ask("a"), GREEDY)[0].text == "x" * 5000
            finally:
                engine.close()
            assert "accept-encoding: identity" in server.requests[0].lower()


@pytest.mark.parametrize(
    ("given", "least", "slept"),
    [
        ("nan", 0.004, [0.005, 0.015]),
        ("soon", 0.004, [0.005, 0.015]),
        ("-3", 0, [0, 0]),
        ("0.3", 0.3, [0.3, 0.3]),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, [0, 0]),
    ],
)
def test_odd_waits(given: str, least: float, slept: list[float], caplog: pytest.LogCaptureFixture) -> None:
    def act(link: Any, request: str) -> None:
        first = sum(one.startswith("POST") for one in server.requests) < 2
        told = says(b"{}", "429 Slow", Retry_After=given) if first else says_json(answer())
        told(link, request)

    caplog.set_level(logging.INFO, "grounddecode")
    with hostile(act) as server:
        engine = OpenAIEngine(server.url + "#m", backoff=0.01)
        try:
            (response,) = engine.generate(ask("a"), GREEDY)
        finally:
            engine.close()
    assert response.seconds >= least
    told, *_ = (record for record in caplog.records if "again in" in record.msg)  # of the 429
    *_, wait = told.args
    assert slept[0] <= wait <= slept[1]
