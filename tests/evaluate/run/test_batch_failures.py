"""The bench behind a server that fails some requests: what it answered is kept, what failed is known as failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grounddecode.engines.openai.engine import OpenAIEngine
from grounddecode.evaluate.folder.store import RunFolder
from tests.engines.openai.fake import Fake, Reply, words
from tests.evaluate.fake import run


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


def bench(fake: Fake, data: Path, out: Path, **more: Any) -> dict[str, Any]:
    engine = OpenAIEngine(fake.url + "#m", retries=1, backoff=0.01, concurrency=32)
    try:
        return run(data, out, engine, methods=["greedy"], batch_size=32, **more)
    finally:
        engine.close()


def only(words_of: str, bad: Reply, good: Reply) -> Any:
    """`bad` for one of six captions (the third asked for), `good` for everything else."""
    captions: list[bytes] = []

    def script(body: dict[str, Any], nth: int) -> Reply:
        if not words(body).startswith(words_of):
            return good
        picture = body["messages"][0]["content"][0]["image_url"]["url"]
        if picture not in captions:
            captions.append(picture)
        return bad if captions.index(picture) == 2 else good

    return script


def test_one_failing_request_costs_its_sample_alone(fake: Fake, data: Path, tmp_path: Path) -> None:
    fake.script = only("Describe", Reply(status=500, body=b""), Reply(text="Yes.", delay=0.05))
    fake.together = 9
    found = bench(fake, data, tmp_path)
    asked = len(fake.bodies)
    records = RunFolder(tmp_path).records()
    failed = [one for one in records if one["status"] == "failed"]
    (one,) = failed
    assert one["error"].endswith("127.0.0.1 failed: status 500")
    assert (one["response"], found["run"]["n_failed"]) == (None, 1)
    assert asked == len({r.get("same_as", r["sample_id"]) for r in records}) + 1, "one further attempt, nothing twice"
    assert fake.most_in_flight > 8
    fake.script = lambda body, nth: Reply(text="Yes.")
    assert bench(fake, data, tmp_path)["run"]["n_failed"] == 0
    assert len(fake.bodies) == asked + 1


@pytest.mark.parametrize(
    ("text", "finish"), [("", "content_filter"), ("", "length"), (None, "content_filter"), ("Yes", "content_filter")]
)
def test_an_answer_that_was_withheld_is_no_yes(
    fake: Fake, data: Path, tmp_path: Path, text: str | None, finish: str
) -> None:
    withheld = Reply(text=text, finish=finish)
    fake.script = lambda body, nth: withheld if "bowl" in words(body) else Reply(text="No.")
    found = bench(fake, data, tmp_path, benchmarks=["pope"])
    cells = found["results"]["greedy"]["pope"]
    questions = [one for one in RunFolder(tmp_path).records() if one["benchmark"] == "pope"]
    bowls = sum("bowl" in one["prompt"] for one in questions)
    assert bowls
    assert sum(cell["n_failed"] for cell in cells.values()) == bowls == found["run"]["n_failed"]
    assert all(cell["yes_ratio"] == 0 for cell in cells.values() if cell["n"])


def test_a_method_that_is_not_confirmed_has_no_row(fake: Fake, data: Path, tmp_path: Path) -> None:
    fake.script = lambda body, nth: Reply(text="Yes.")
    engine = OpenAIEngine(fake.url + "#m", send_methods=True)
    try:
        try:
            found = run(data, tmp_path, engine, methods=["greedy", "avc"])
        except RuntimeError as error:
            told = str(error)
        else:
            told = str(found["run"])
            assert "avc" not in found["results"]
    finally:
        engine.close()
    assert "does not confirm that avc acted" in told
    assert not [one for one in RunFolder(tmp_path).records() if one["method"] == "avc" and one["status"] == "ok"]
