"""Engine openai against a server of this test that delays, refuses, breaks off and talks nonsense."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grounddecode.engines.base import BatchError, Request
from grounddecode.engines.openai.engine import OpenAIEngine
from grounddecode.engines.openai.http import LONGEST_WAIT, Patience
from tests.engines.openai.fake import GREEDY, Fake, Reply, ask, words


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
    assert 0.3 <= 3 * responses[0].seconds < 20


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_is_reached_and_never_passed(fake: Fake, concurrency: int) -> None:
    fake.script, fake.together = lambda body, nth: Reply(delay=0.05), concurrency
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
    fake.script = lambda body, nth: Reply(text=f"attempt {nth}", delay=60 if nth == 0 else 0)
    engine = OpenAIEngine(fake.url + "#m", timeout=1, backoff=0.01)
    try:
        begin = time.monotonic()
        assert engine.generate(ask("a"), GREEDY)[0].text == "attempt 1"
        assert time.monotonic() - begin < 30
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
    fake.together = 8
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
    assert fake.most_in_flight == 8, "and they do not wait for each other"


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
    assert 0.4 <= second - first < 20


def test_waits_double_and_are_spread() -> None:
    patience = Patience(timeout=1, deadline=2, retries=9, backoff=2, max_bytes=1)
    for attempt, middle in enumerate([2, 4, 8, 16]):
        waits = [patience.wait(attempt, None) for _ in range(200)]
        assert 0.5 * middle <= min(waits) < 0.6 * middle
        assert 1.4 * middle < max(waits) <= 1.5 * middle
    assert patience.wait(9, None) == patience.wait(5000, None) == LONGEST_WAIT
    assert patience.wait(0, 0.0) == 0.0
    assert patience.wait(0, 3600.0) == LONGEST_WAIT


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
