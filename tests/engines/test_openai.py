"""Engine openai against a server of this test that delays, refuses, breaks off and talks nonsense."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grounddecode.engines.base import BatchError, Decoding, Request, open_engine
from grounddecode.engines.openai import OpenAIEngine
from grounddecode.engines.server import LONGEST_WAIT, Patience
from grounddecode.registry import parse
from tests.engines.fake_openai import Fake, Reply, ask, words

GREEDY = Decoding(max_new_tokens=7)


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture
def engine(fake: Fake) -> Iterator[OpenAIEngine]:
    opened = OpenAIEngine(fake.url + "#m", backoff=0.01, retries=3)
    yield opened
    opened.close()


def test_answers_come_in_the_order_of_the_requests(fake: Fake, engine: OpenAIEngine) -> None:
    finished: list[str] = []

    def script(body: dict[str, Any], nth: int) -> Reply:
        finished.append(words(body))
        return Reply(text=f" {words(body)}! ", delay=0.3 - 0.1 * int(words(body)))

    fake.script = script
    responses = engine.generate(ask("0", "1", "2"), GREEDY)
    assert [r.text for r in responses] == ["0!", "1!", "2!"]
    assert [r.sample_id for r in responses] == ["id-0", "id-1", "id-2"]
    assert [r.n_tokens for r in responses] == [3, 3, 3]
    # The shares of the wall time are equal, and together they are at least the slowest answer.
    assert len({r.seconds for r in responses}) == 1
    assert 0.3 <= 3 * responses[0].seconds < 3


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_is_reached_and_never_passed(fake: Fake, concurrency: int) -> None:
    fake.script = lambda body, nth: Reply(delay=0.05)
    engine = OpenAIEngine(fake.url + "#m", concurrency=concurrency)
    try:
        engine.generate(ask(*map(str, range(9))), GREEDY)
    finally:
        engine.close()
    assert fake.most_in_flight == concurrency
    assert len(fake.bodies) == 9


BROKEN = {
    "too many requests": Reply(status=429, body=b'{"error": {"message": "slow down"}}'),
    "server error": Reply(status=500, body=b"oops"),
    "gateway": Reply(status=503, body=b"<html>busy</html>"),
    "no JSON": Reply(body=b'{"choices": [{"mess'),
    "not UTF-8": Reply(body=b"\xff\xfe\x00"),
    "another JSON": Reply(body=b'["well"]'),
    "no choice": Reply(body=b'{"choices": []}'),
    "an error with status 200": Reply(body=b'{"error": "try later"}'),
    "garbled compression": Reply(headers={"Content-Encoding": "gzip"}),
    "hung up": Reply(hang_up=True),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_may_pass_is_tried_again(fake: Fake, engine: OpenAIEngine, broken: Reply) -> None:
    fake.script = lambda body, nth: broken if words(body) == "b" and nth < 2 else Reply(text=words(body))
    assert [r.text for r in engine.generate(ask("a", "b", "c"), GREEDY)] == ["a", "b", "c"]
    assert fake.asked == {"a": 1, "b": 3, "c": 1}


def test_a_slow_answer_is_given_up_and_asked_for_again(fake: Fake) -> None:
    fake.script = lambda body, nth: Reply(text=f"attempt {nth}", delay=0.6 if nth == 0 else 0)
    engine = OpenAIEngine(fake.url + "#m", timeout=0.2, backoff=0.01)
    try:
        begin = time.monotonic()
        assert engine.generate(ask("a"), GREEDY)[0].text == "attempt 1"
        assert time.monotonic() - begin < 0.55
    finally:
        engine.close()


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_after_the_last_attempt_the_batch_fails(fake: Fake, engine: OpenAIEngine, broken: Reply) -> None:
    fake.script = lambda body, nth: broken if words(body) == "b" else Reply()
    with pytest.raises(RuntimeError, match=r"^sample id-b: 127\.0\.0\.1 failed: "):
        engine.generate(ask("a", "b"), GREEDY)
    assert fake.asked["b"] == 4  # one attempt and three more
    # The engine still works.
    assert engine.generate(ask("c"), GREEDY)[0].text == "fine"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, b'{"error": {"message": "alpha must be positive", "code": 400}}', "status 400 alpha must be positive"),
        (400, b'{"object": "error", "message": "too long"}', "status 400 too long"),
        (404, b"nothing here", "status 404 nothing here"),
        (401, b'{"error": "no key"}', "status 401 no key, set OPENAI_API_KEY"),
        (422, b"", "status 422$"),
    ],
)
def test_a_refusal_is_told_at_once(fake: Fake, engine: OpenAIEngine, status: int, body: bytes, says: str) -> None:
    fake.script = lambda _, nth: Reply(status=status, body=body)
    with pytest.raises(RuntimeError, match=says):
        engine.generate(ask("a"), GREEDY)
    assert fake.asked["a"] == 1


def test_a_failure_takes_nothing_from_the_others(fake: Fake) -> None:
    failing, refused = Reply(status=500, body=b""), Reply(status=400, body=b'{"error": {"message": "too long"}}')
    fake.script = lambda body, nth: {"3": failing, "9": refused}.get(words(body), Reply(text=words(body), delay=0.05))
    engine = OpenAIEngine(fake.url + "#m", concurrency=8, retries=2, backoff=0.05)
    try:
        with pytest.raises(BatchError, match=r"^sample id-3: .* 500 \(and 1 more of the batch failed\)$") as caught:
            engine.generate(ask(*map(str, range(20))), GREEDY)
    finally:
        engine.close()
    assert [one.text for one in caught.value.responses] == [str(at) for at in range(20) if at not in (3, 9)]
    assert [*caught.value.failures] == ["id-3", "id-9"]
    assert str(caught.value.failures["id-9"]) == "sample id-9: 127.0.0.1 failed: status 400 too long"
    assert fake.asked["3"] == 3
    assert sum(fake.asked.values()) == 22, "nothing that was answered is asked again"
    assert fake.most_in_flight > 4, "and they do not wait for each other"


def test_an_unreadable_picture_takes_nothing_from_the_others(engine: OpenAIEngine, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    broken = Request(sample_id="s", prompt="p", images=(tmp_path / "a.png",))
    with pytest.raises(BatchError, match=r"a\.png is no readable image") as caught:
        engine.generate([broken, *ask("a")], GREEDY)
    assert [one.text for one in caught.value.responses] == ["fine"]


def test_the_wait_that_the_server_asks_for_is_obeyed(fake: Fake, engine: OpenAIEngine) -> None:
    fake.script = lambda body, nth: Reply(status=429, headers={"Retry-After": "0.4"}) if nth == 0 else Reply()
    engine.generate(ask("a"), GREEDY)
    first, second = fake.times
    assert 0.4 <= second - first < 2


def test_waits_double_and_are_spread() -> None:
    patience = Patience(timeout=1, deadline=2, retries=9, backoff=2, max_bytes=1)
    for attempt, middle in enumerate([2, 4, 8, 16]):
        waits = [patience.wait(attempt, None) for _ in range(200)]
        assert 0.5 * middle <= min(waits) < 0.6 * middle
        assert 1.4 * middle < max(waits) <= 1.5 * middle
    assert patience.wait(9, None) == patience.wait(5000, None) == LONGEST_WAIT
    assert patience.wait(0, 0.0) == 0.0
    assert patience.wait(0, 3600.0) == LONGEST_WAIT


def test_no_answer_is_no_empty_answer(fake: Fake, engine: OpenAIEngine) -> None:
    fake.script = lambda body, nth: Reply(text=None)
    with pytest.raises(RuntimeError, match="an answer without text, finished by 'stop'"):
        engine.generate(ask("a"), GREEDY)
    fake.script = lambda body, nth: Reply(text="")
    assert engine.generate(ask("b"), GREEDY)[0].text == ""


def test_greedy_request(fake: Fake, engine: OpenAIEngine, tmp_path: Path) -> None:
    picture = Image.effect_noise((5, 4), 80).convert("RGB")
    picture.save(tmp_path / "a.png")
    request = Request(sample_id="s", prompt="What?", images=(tmp_path / "a.png", picture.rotate(180)))
    engine.generate([request], GREEDY)
    (body,) = fake.bodies
    (message,) = body.pop("messages")
    first, second, text = message["content"]
    assert message["role"] == "user"
    assert text == {"type": "text", "text": "What?"}
    assert decoded(first).tobytes() == picture.tobytes()
    assert decoded(second).tobytes() == picture.rotate(180).tobytes() != picture.tobytes()
    assert isinstance(body.pop("seed"), int)
    assert body == {"model": "m", "max_tokens": 7, "temperature": 0.0}
    assert fake.paths[-1] == "/v1/chat/completions"


def decoded(part: dict[str, Any]) -> Image.Image:
    head, _, data = part["image_url"]["url"].partition(",")
    assert part["type"] == "image_url"
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_pictures_are_sent_upright_and_in_rgb(fake: Fake, engine: OpenAIEngine, tmp_path: Path) -> None:
    lying = Image.frombytes("L", (2, 1), bytes([10, 200]))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    lying.save(tmp_path / "lying.png", exif=exif)
    engine.generate([Request(sample_id="s", prompt="p", images=(tmp_path / "lying.png",))], GREEDY)
    sent = decoded(fake.bodies[0]["messages"][0]["content"][0])
    assert (sent.mode, sent.size) == ("RGB", (1, 2))
    assert sent.tobytes() == bytes([10, 10, 10, 200, 200, 200])


def test_an_unreadable_picture_is_named(engine: OpenAIEngine, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.png is no readable image"):
        engine.generate([Request(sample_id="s", prompt="p", images=(tmp_path / "a.png",))], GREEDY)


def test_sampling_request(fake: Fake, engine: OpenAIEngine) -> None:
    engine.generate(ask("a"), Decoding(do_sample=True, temperature=0.7, top_p=0.9, min_p=0.1, seed=4))
    engine.generate(ask("a"), Decoding(do_sample=True, temperature=1.0))
    with_cut, plain = fake.bodies
    assert [with_cut[key] for key in ("temperature", "top_p", "min_p", "max_tokens")] == [0.7, 0.9, 0.1, 64]
    assert [plain[key] for key in ("temperature", "top_p")] == [1.0, 1.0]
    assert "min_p" not in plain  # a field that OpenAI's own servers refuse


def test_seeds_depend_on_the_sample_and_not_on_its_batch(fake: Fake, engine: OpenAIEngine) -> None:
    engine.generate(ask("a", "b", "c"), GREEDY)
    engine.generate(ask("c", "a"), GREEDY)
    engine.generate(ask("a"), Decoding(max_new_tokens=7, seed=1))
    seeds: dict[str, list[int]] = {}
    for body in sorted(fake.bodies[:5], key=words):
        seeds.setdefault(words(body), []).append(body["seed"])
    assert len(set(seeds["a"])) == len(set(seeds["c"])) == 1
    assert len({seeds["a"][0], seeds["b"][0], seeds["c"][0], fake.bodies[5]["seed"]}) == 4


def test_methods_are_refused_unless_the_server_is_said_to_know_them(fake: Fake, engine: OpenAIEngine) -> None:
    with pytest.raises(ValueError, match=r"^avc needs more than chat completions: use engine hf$"):
        engine.generate(ask("a"), GREEDY, parse("avc"))
    assert fake.bodies == []


def applied(body: dict[str, Any]) -> dict[str, Any]:
    """What a server that applied the methods of a request adds to its answer."""
    return {"grounddecode": {"methods": json.loads(body["vllm_xargs"]["grounddecode"])}} if "vllm_xargs" in body else {}


def other_settings(body: dict[str, Any]) -> dict[str, Any]:
    told = applied(body)
    told["grounddecode"]["methods"][0]["beta"] = 0.25
    return told


@pytest.mark.parametrize(
    "told",
    [
        lambda body: {},
        lambda body: {"grounddecode": True},
        lambda body: {"grounddecode": {"methods": []}},
        lambda body: {"grounddecode": {"methods": applied(body)["grounddecode"]["methods"][:1]}},
        other_settings,
    ],
    ids=["nothing", "true", "none", "one of two", "other settings"],
)
def test_what_a_server_does_not_confirm_is_no_answer_of_a_method(fake: Fake, told: Any) -> None:
    fake.script = lambda body, nth: Reply(delay=0.05, more=told(body))
    engine = OpenAIEngine(fake.url + "#m", send_methods=True, concurrency=2)
    try:
        with pytest.raises(ValueError, match=r"^the server does not confirm that locore\+avc acted, .* use engine hf$"):
            engine.generate(ask(*map(str, range(20))), GREEDY, parse("locore:beta=0.5+avc"))
        assert len(fake.bodies) <= 4, "the rest need not be paid for"
    finally:
        engine.close()


def test_confirmed_methods_answer(fake: Fake) -> None:
    fake.script = lambda body, nth: Reply(more=applied(body))
    knowing = OpenAIEngine(fake.url + "#m", send_methods="true")
    try:
        knowing.generate(ask("a"), GREEDY, parse("locore:beta=0.5+avc"))
        knowing.generate(ask("b"), GREEDY)
    finally:
        knowing.close()
    sent = json.loads(fake.bodies[0]["vllm_xargs"]["grounddecode"])
    assert [(method["name"], method.get("beta")) for method in sent] == [("locore", 0.5), ("avc", sent[1]["beta"])]
    assert "vllm_xargs" not in fake.bodies[1]


def test_beams_are_refused(engine: OpenAIEngine) -> None:
    with pytest.raises(ValueError, match="num_beams is 2, but servers offer no beam search"):
        engine.generate(ask("a"), Decoding(num_beams=2))


def test_extra_fields_win(fake: Fake) -> None:
    engine = OpenAIEngine(fake.url + "#m", extra='{"top_k": 5, "max_tokens": 9}', retries="0", concurrency="2")
    try:
        engine.generate(ask("a"), GREEDY)
        assert (fake.bodies[0]["top_k"], fake.bodies[0]["max_tokens"]) == (5, 9)
        assert (engine.server.concurrency, engine.server.patience.retries) == (2, 0)
        assert engine.describe()["extra"] == {"top_k": 5, "max_tokens": 9}
    finally:
        engine.close()


def test_null_in_extra_leaves_a_field_out(fake: Fake) -> None:
    extra = {"max_tokens": None, "temperature": None, "seed": None, "max_completion_tokens": 16}
    engine = OpenAIEngine(fake.url + "#m", extra=json.dumps(extra))
    try:
        engine.generate(ask("a"), GREEDY)
    finally:
        engine.close()
    assert sorted(fake.bodies[0]) == ["max_completion_tokens", "messages", "model"]


NEWER = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
)


def newer(body: dict[str, Any], nth: int) -> Reply:
    """A model that knows the longest answer by its newer name only, and no temperature."""
    for field, told in zip(("max_tokens", "temperature"), NEWER, strict=True):
        if field in body:
            return Reply(status=400, body=json.dumps({"error": {"message": told}}).encode())
    return Reply(text="yes")


def test_the_newer_name_of_the_longest_answer_is_learnt_once(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    fake.script = newer
    engine = OpenAIEngine(fake.url + "#m", extra={"temperature": None}, concurrency=1)
    try:
        assert [one.text for one in engine.generate(ask("a", "b", "c"), GREEDY)] == ["yes"] * 3
    finally:
        engine.close()
    assert [("max_tokens" in body, body.get("max_completion_tokens")) for body in fake.bodies] == [
        (True, None), (False, 7), (False, 7), (False, 7)
    ]  # fmt: skip
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "127.0.0.1 takes max_completion_tokens in place of max_tokens"
    ]


def test_requests_in_flight_learn_it_together(fake: Fake) -> None:
    fake.script = newer
    engine = OpenAIEngine(fake.url + "#m", extra={"temperature": None}, concurrency=4)
    try:
        assert [one.text for one in engine.generate(ask(*"abcd"), GREEDY)] == ["yes"] * 4
    finally:
        engine.close()


def test_no_other_field_is_given_up(fake: Fake, engine: OpenAIEngine) -> None:
    fake.script = newer
    with pytest.raises(RuntimeError, match="'temperature' does not support 0"):
        engine.generate(ask("a"), GREEDY)
    assert len(fake.bodies) == 2
    chosen = OpenAIEngine(fake.url + "#m", extra={"max_tokens": 9})
    try:
        with pytest.raises(RuntimeError, match="Use 'max_completion_tokens' instead"):
            chosen.generate(ask("b"), GREEDY)
    finally:
        chosen.close()
    assert fake.asked["b"] == 1, "what extra says wins"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "Yes"}], "Yes"),
        ([{"type": "text", "text": "Ye"}, {"type": "text", "text": "s, a dog."}, "!"], "Yes, a dog.!"),
        ([{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "No"}], "No"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "No"}], "No"),
        ("half \ud83d of a pair, a whole \ud83d\ude00", "half \ufffd of a pair, a whole \U0001f600"),
    ],
)
def test_the_text_of_a_message(fake: Fake, engine: OpenAIEngine, content: Any, text: str) -> None:
    fake.script = lambda body, nth: Reply(text=content)
    assert engine.generate(ask("a"), GREEDY)[0].text == text


@pytest.mark.parametrize(
    ("text", "finish", "says"),
    [
        ("", "content_filter", "an answer withheld by the server, finish_reason 'content_filter'"),
        ("There is a dog and", "content_filter", "withheld"),
        ("There is a dog and", "SAFETY", "withheld"),
        (None, "content_filter", "withheld"),
        ("", "length", "an empty answer, finished by 'length', raise max_new_tokens"),
        (" \n", "length", "an empty answer"),
        ("", "tool_calls", "an empty answer, finished by 'tool_calls'"),
        (None, "length", "without text, finished by 'length'"),
        ([], "stop", "without text"),
        ([{"type": "image_url"}], "stop", "without text"),
        (7, "stop", "without text"),
        ({"text": "Yes"}, "stop", "without text"),
    ],
)
def test_what_the_model_did_not_say_is_no_answer(
    fake: Fake, engine: OpenAIEngine, text: Any, finish: str, says: str
) -> None:
    fake.script = lambda body, nth: Reply(text=text, finish=finish)
    with pytest.raises(RuntimeError, match=says):
        engine.generate(ask("a"), GREEDY)
    assert fake.asked["a"] == 1


@pytest.mark.parametrize("finish", ["stop", "length", "eos_token", None, "whatever"])
def test_words_count_however_they_ended(fake: Fake, engine: OpenAIEngine, finish: str | None) -> None:
    fake.script = lambda body, nth: Reply(text="A dog", finish=finish)
    assert engine.generate(ask("a"), GREEDY)[0].text == "A dog"


@pytest.mark.parametrize("finish", ["error", "abort"])
def test_an_answer_that_broke_off_is_asked_for_again(fake: Fake, engine: OpenAIEngine, finish: str) -> None:
    fake.script = lambda body, nth: Reply(text="A d", finish=finish) if nth == 0 else Reply(text="A dog")
    assert engine.generate(ask("a"), GREEDY)[0].text == "A dog"


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
    from grounddecode.engines.address import address as read

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
        "extra": ["{", "[]", 3],
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


def test_it_works_where_an_event_loop_already_runs(engine: OpenAIEngine) -> None:
    async def notebook_cell() -> str:
        return engine.generate(ask("a"), GREEDY)[0].text

    assert asyncio.run(notebook_cell()) == "fine"


def test_closing_ends_its_threads(fake: Fake) -> None:
    before = set(threading.enumerate())
    engine = OpenAIEngine(fake.url + "#m")
    engine.generate([Request(sample_id="s", prompt="p", images=(Image.new("RGB", (2, 2)),))], GREEDY)
    started = {t for t in set(threading.enumerate()) - before if t.name.startswith("grounddecode")}
    assert len(started) == 2
    engine.close()
    for thread in started:
        thread.join(2)
    assert not any(thread.is_alive() for thread in started)


def test_an_empty_batch_asks_nothing(fake: Fake, engine: OpenAIEngine) -> None:
    assert engine.generate([], GREEDY) == []
    assert fake.bodies == []
