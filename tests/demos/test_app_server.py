"""The demo app before a running vLLM server, in a real browser: the same answers as a model on this machine gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grounddecode import lab, registry
from grounddecode.engines.base import Decoding, Request, open_engine
from grounddecode.lab.world import scenes
from tests.support import browser, demo_app, vllm_server
from tests.support.browser import Browser
from tests.support.demo_app import TEXT, choose, visit

LACKING = demo_app.missing() or ("" if vllm_server.python() else "needs vLLM's environment: make .venv-vllm")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=LACKING or "nothing is missing"),
]
KEY = "only-for-this-test"
FLAGS = ("--logits-processors", "logits_processors.vllm:GroundDecode", "--api-key", KEY)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    log = tmp_path_factory.mktemp("vllm") / "log"
    with (
        vllm_server.serve(lab.checkpoint("seed0"), log, *FLAGS) as server,
        demo_app.running("--url", server, OPENAI_API_KEY=KEY) as address,
        browser.opened() as (one,),
    ):
        yield visit(one, address)


def asked(window: Browser, spec: str) -> str:
    """Press the button with these methods; what is told once it is done or refused."""
    choose(window, spec)
    window.click("#go")
    window.until(f"{TEXT.format('#state')}.includes('{spec}')", 120)
    return str(window.run(TEXT.format("#state")))


def by_hf(spec: str) -> str:
    """What the model says of the first scene on this machine."""
    engine = open_engine("hf", "lab", device="cpu", dtype="float32")
    request = Request(
        sample_id="0", prompt="Describe this image in detail.", images=(scenes("evaluation", 1)[0].image,)
    )
    (answer,) = engine.generate([request], Decoding(max_new_tokens=60), registry.parse(spec))
    engine.close()
    return answer.text


@pytest.mark.parametrize("spec", ["avc", "locore"])
def test_both_answers_come_from_the_server(window: Browser, spec: str) -> None:
    assert asked(window, spec) == f"Done, --method {spec}."
    plain, other = (window.run(TEXT.format(name)) for name in ("#plain", "#other"))
    assert by_hf("greedy") in plain
    assert other.startswith(f"{spec}\n")
    assert by_hf(spec) in other
    assert "objects are not in the picture" in plain
    assert "A server gives no gradients" in window.run(TEXT.format("#explained"))
    assert window.errors() == []


def test_what_the_server_refuses_is_told_in_its_own_sentence(window: Browser) -> None:
    told = asked(window, "sgrs")
    assert "sgrs: this server was not started for it, start it with the command" in told
    assert "sample" not in told
    assert asked(window, "avc") == "Done, --method avc."
