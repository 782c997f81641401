"""What engine openai sends: fields, pictures, seeds, methods."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grounddecode.engines.base import Decoding, Request, refusal_of
from grounddecode.engines.openai.engine import OpenAIEngine
from grounddecode.evaluate.scoring.judged.hallusionbench import engine_judge
from grounddecode.method import Needs
from grounddecode.registry import parse
from tests.engines.openai.fake import GREEDY, Fake, Reply, ask, words


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


def test_it_can_be_asked_what_it_applies(fake: Fake, engine: OpenAIEngine) -> None:
    assert engine.offers is Needs.NOTHING
    assert refusal_of(engine, parse("locore+avc")) == "locore+avc needs more than chat completions: use engine hf"
    assert refusal_of(engine, ()) is None
    knowing = OpenAIEngine(fake.url + "#m", send_methods=True)
    try:
        assert Needs.GRADIENT in knowing.offers
        assert refusal_of(knowing, parse("locore+avc")) is None
    finally:
        knowing.close()
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
        "without a temperature 127.0.0.1 decides how tokens are chosen: no answer is known to be greedy",
        "127.0.0.1 takes max_completion_tokens in place of max_tokens",
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
    cure = r"'temperature' does not support 0 .* \(extra=\{\"temperature\": null\} leaves temperature out\)$"
    with pytest.raises(RuntimeError, match=cure):
        engine.generate(ask("a"), GREEDY)
    assert len(fake.bodies) == 2
    chosen = OpenAIEngine(fake.url + "#m", extra={"max_tokens": 9})
    try:
        with pytest.raises(RuntimeError, match="Use 'max_completion_tokens' instead"):
            chosen.generate(ask("b"), GREEDY)
    finally:
        chosen.close()
    assert fake.asked["b"] == 1, "what extra says wins"


def test_a_judge_asks_in_the_same_way(fake: Fake) -> None:
    fake.script = newer
    engine = OpenAIEngine(fake.url + "#m", extra={"temperature": None}, concurrency=1)
    try:
        assert engine_judge(engine)(["right?", "and this?"]) == ["yes", "yes"]
    finally:
        engine.close()
    assert [body.get("max_completion_tokens") for body in fake.bodies] == [None, 8, 8]
